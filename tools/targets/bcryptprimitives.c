/* The one function that Rust's programs ask of bcryptprimitives.dll, which older versions of wine do not have: random
 * bytes, here from an older function of Windows that wine has. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG bytes);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE buffer, SIZE_T bytes)
{
    while (bytes > 0) {
        ULONG some = bytes > 0x10000 ? 0x10000 : (ULONG)bytes;
        if (!SystemFunction036(buffer, some))
            return FALSE;
        buffer += some;
        bytes -= some;
    }
    return TRUE;
}
