//! The encryption of connections: one provider in pure Rust, and the authorities that it trusts.

use std::sync::Arc;

use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsConfigBuilder, TlsProvider, parse_pem};

use crate::error::{Error, Result};

/// Settings for encrypted connections, or `None` on a processor that lacks the instructions which they need.
///
/// # Errors
/// [`Error::Io`] and [`Error::Request`] for an `SSL_CERT_FILE` that cannot be used.
#[doc(hidden)]
pub fn encryption() -> Result<Option<TlsConfig>> {
    let Some(provider) = provider() else { return Ok(None) };
    Ok(Some(provider.root_certs(root_certificates()?).build()))
}

/// The encryption itself, or `None` on a processor without the instructions it is written in.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn provider() -> Option<TlsConfigBuilder> {
    #[cfg(target_arch = "x86_64")]
    let able = {
        use std::arch::is_x86_feature_detected as has;
        has!("aes") && has!("pclmulqdq") && has!("bmi1") && has!("bmi2") && has!("adx") && has!("avx") && has!("avx2")
    };
    #[cfg(target_arch = "aarch64")]
    let able = {
        use std::arch::is_aarch64_feature_detected as has;
        has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
    };
    let builder = TlsConfig::builder().provider(TlsProvider::Rustls);
    able.then(|| builder.unversioned_rustls_crypto_provider(Arc::new(rustls_graviola::default_provider())))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn provider() -> Option<TlsConfigBuilder> {
    None
}

/// Mozilla's authorities, or the user's own.
fn root_certificates() -> Result<RootCerts> {
    let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    match certificates.is_empty() {
        true => Err(Error::request(format!("SSL_CERT_FILE {} has no certificates", file.display()))),
        false => Ok(RootCerts::Specific(Arc::new(certificates))),
    }
}
