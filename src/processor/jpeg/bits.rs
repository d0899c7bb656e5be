//! Entropy-coded bits and Huffman codes.

use super::fault::Fault;

/// Bits that are looked up at once.
const LOOKAHEAD: u32 = 10;

/// Reads entropy-coded data up to the next marker, past which it gives zeros.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top.
    buffer: u64,
    /// The number of bits in `buffer`.
    count: u32,
    /// The number of those bits that are zeros and not in the file.
    made_up: u32,
    /// Code of the marker the data ended with; 0 where none was met.
    marker: u8,
    /// True if bits were wanted past the end of the file.
    pub(super) ended: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Bits { data, at, buffer: 0, count: 0, made_up: 0, marker: 0, ended: false }
    }

    /// Place of the next unread byte, and the marker that was met just before it (0: none). Bits that were read
    /// ahead are dropped.
    pub(super) fn leave(&mut self) -> (usize, u8) {
        (self.buffer, self.count, self.made_up) = (0, 0, 0);
        (self.at, std::mem::take(&mut self.marker))
    }

    /// Goes on at a place, behind a marker if there is one that was not taken.
    pub(super) fn resume(&mut self, at: usize, marker: u8) {
        (self.at, self.marker) = (at, marker);
    }

    /// True if more bits were taken than there are.
    pub(super) fn starved(&self) -> bool {
        self.made_up > self.count
    }

    /// Makes sure of at least 32 bits.
    #[inline(always)]
    pub(super) fn fill(&mut self) {
        if self.count < 32 {
            self.refill();
        }
    }

    #[inline]
    fn refill(&mut self) {
        if let Some(next) = self.data.get(self.at..self.at + 8).filter(|_| self.marker == 0) {
            let word = u64::from_be_bytes([next[0], next[1], next[2], next[3], next[4], next[5], next[6], next[7]]);
            // No byte is 0xff: none of the complement is zero.
            if (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 == 0 {
                let bytes = (63 - self.count) / 8;
                self.buffer |= word >> self.count & u64::MAX << (64 - self.count - bytes * 8);
                self.at += bytes as usize;
                self.count += bytes * 8;
                return;
            }
        }
        self.refill_bytes();
    }

    #[cold]
    fn refill_bytes(&mut self) {
        while self.count <= 56 {
            let byte = if self.marker == 0 { self.byte() } else { None };
            match byte {
                Some(byte) => self.buffer |= u64::from(byte) << (56 - self.count),
                None => self.made_up = self.made_up.min(self.count) + 8,
            }
            self.count += 8;
        }
    }

    /// The next byte of data; `None` at a marker or the end of the file.
    fn byte(&mut self) -> Option<u8> {
        let Some(&byte) = self.data.get(self.at) else {
            self.ended = true;
            return None;
        };
        self.at += 1;
        if byte != 0xff {
            return Some(byte);
        }
        loop {
            let Some(&code) = self.data.get(self.at) else {
                self.ended = true;
                return None;
            };
            self.at += 1;
            match code {
                0xff => {}
                0 => return Some(0xff),
                code => {
                    self.marker = code;
                    return None;
                }
            }
        }
    }

    #[inline(always)]
    fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    fn drop(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// The next `bits` bits, 1 to 16.
    #[inline(always)]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        self.fill();
        let value = self.peek(bits);
        self.drop(bits);
        value
    }

    /// The next `size` bits as a signed number: the code of a coefficient's size and then these bits.
    #[inline(always)]
    pub(super) fn signed(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        extend(self.take(size), size)
    }
}

#[inline(always)]
fn extend(value: u32, size: u32) -> i32 {
    let value = value as i32;
    if value < 1 << (size - 1) { value + (-1 << size) + 1 } else { value }
}

/// A Huffman table as the file gives it.
#[derive(Clone)]
pub(super) struct TableSpec {
    /// Number of codes of each length from 1.
    pub(super) lengths: [u8; 16],
    /// The values that the codes stand for; zeros behind the last.
    pub(super) values: [u8; 256],
}

/// A Huffman table made for decoding.
pub(super) struct Table {
    /// The short codes by the data's first bits: length of the code << 8 | value, 0 where the code is longer.
    short: [u16; 1 << LOOKAHEAD],
    /// The short codes whose further bits are there too: coefficient << 16 | run << 8 | number of all bits, 0
    /// elsewhere.
    whole: Box<[i32; 1 << LOOKAHEAD]>,
    /// Largest code of each length, -1 where there is none; 17 is the end.
    max_code: [i32; 18],
    /// The number to add to a code of each length for the index of its value.
    offset: [i32; 17],
    values: [u8; 256],
}

impl Table {
    /// Makes a table; `largest` is the largest value allowed.
    pub(super) fn new(spec: &TableSpec, largest: u8) -> Result<Table, Fault> {
        let mut table = Table {
            short: [0; 1 << LOOKAHEAD],
            whole: Box::new([0; 1 << LOOKAHEAD]),
            max_code: [-1; 18],
            offset: [0; 17],
            values: spec.values,
        };
        table.max_code[17] = i32::MAX;
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = usize::from(spec.lengths[length as usize - 1]);
            if index + count > 256 {
                return Err(Fault::Damaged);
            }
            if count > 0 {
                table.offset[length as usize] = index as i32 - code as i32;
                table.max_code[length as usize] = (code as usize + count - 1) as i32;
            }
            for _ in 0..count {
                if length <= LOOKAHEAD && code < 1 << length {
                    table.enter(code, length, spec.values[index]);
                }
                (code, index) = (code + 1, index + 1);
            }
            // A code of ones alone is not allowed. (After the last code the check would be of nothing.)
            if count > 0 && code >= 1 << length {
                return Err(Fault::Damaged);
            }
            code <<= 1;
        }
        if spec.values[..index].iter().any(|value| *value > largest) {
            return Err(Fault::Damaged);
        }
        Ok(table)
    }

    /// Enters a code that is short enough to be looked up.
    fn enter(&mut self, code: u32, length: u32, value: u8) {
        let first = (code << (LOOKAHEAD - length)) as usize;
        let (run, size) = (u32::from(value >> 4), u32::from(value & 15));
        for start in first..first + (1 << (LOOKAHEAD - length)) {
            self.short[start] = (length as u16) << 8 | u16::from(value);
            if size > 0 && length + size <= LOOKAHEAD {
                let bits = start as u32 >> (LOOKAHEAD - length - size) & ((1 << size) - 1);
                self.whole[start] = extend(bits, size) << 16 | (run << 8 | (length + size)) as i32;
            }
        }
    }

    /// The next value; 0 where the data are no code of the table.
    #[inline(always)]
    pub(super) fn value(&self, bits: &mut Bits<'_>) -> u8 {
        bits.fill();
        let found = self.short[bits.peek(LOOKAHEAD) as usize];
        if found != 0 {
            bits.drop(u32::from(found >> 8));
            return found as u8;
        }
        self.long_value(bits)
    }

    #[cold]
    fn long_value(&self, bits: &mut Bits<'_>) -> u8 {
        let mut length = 1;
        while bits.peek(length) as i32 > self.max_code[length as usize] {
            length += 1;
        }
        let code = bits.peek(length) as i32;
        bits.drop(length);
        if length > 16 { 0 } else { self.values[(code + self.offset[length as usize]) as usize & 255] }
    }

    /// The next coefficient as (value, zeros before it), where its code and bits are short.
    #[inline(always)]
    pub(super) fn coefficient(&self, bits: &mut Bits<'_>) -> Option<(i16, usize)> {
        bits.fill();
        let found = self.whole[bits.peek(LOOKAHEAD) as usize];
        if found == 0 {
            return None;
        }
        bits.drop((found & 0xff) as u32);
        Some(((found >> 16) as i16, (found >> 8 & 0xff) as usize))
    }
}
