//! The pictures of requests: data URLs, and addresses where the owner of the machine allows them.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use instructblip::engine::Picture;
use serde_json::Value;

use super::failure::Failure;
#[cfg(feature = "hub")]
use super::remote::Remote;

/// Base64 as clients write it: some leave the padding out, some use the alphabet for addresses.
const BASE64: GeneralPurpose = base64(&STANDARD);
const BASE64_OF_ADDRESSES: GeneralPurpose = base64(&URL_SAFE);

const fn base64(alphabet: &Alphabet) -> GeneralPurpose {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, padding)
}

/// Longest address.
#[cfg(feature = "hub")]
const MOST_ADDRESS: usize = 2048;

/// The places that pictures may come from.
#[derive(Debug, Default)]
pub struct Pictures {
    /// Addresses that may be fetched; none by default.
    #[cfg(feature = "hub")]
    pub remote: Option<std::sync::Arc<Remote>>,
}

impl Pictures {
    /// Reads a picture that stands in a request at `place`: an address, or an object with one under "url".
    ///
    /// # Errors
    /// [`Failure`] for what is no picture's address, or none that may be read.
    pub async fn read(&self, value: Value, place: &str) -> Result<Picture, Failure> {
        let address = match value {
            Value::String(address) => address,
            Value::Object(mut fields) => match fields.remove("url") {
                Some(Value::String(address)) => address,
                _ => return Err(Failure::request(place, "must have the picture's address as \"url\"")),
            },
            _ => return Err(Failure::request(place, "must be a data URL, or an object with one as \"url\"")),
        };
        let bytes = match after_scheme(&address, "data:") {
            Some(rest) => decode(rest).map_err(|problem| Failure::request(place, problem))?,
            None => self.fetch(address, place).await?,
        };
        Ok(Picture::Bytes { name: place.into(), bytes: bytes.into() })
    }

    #[cfg(feature = "hub")]
    async fn fetch(&self, address: String, place: &str) -> Result<Vec<u8>, Failure> {
        let Some(remote) = &self.remote else { return Err(no_addresses(place)) };
        if address.len() > MOST_ADDRESS {
            return Err(Failure::request(place, format!("the address is longer than {MOST_ADDRESS} bytes")));
        }
        Remote::fetch(remote, address).await.map_err(|problem| Failure::request(place, problem))
    }

    #[cfg(not(feature = "hub"))]
    async fn fetch(&self, _: String, place: &str) -> Result<Vec<u8>, Failure> {
        Err(no_addresses(place))
    }
}

fn no_addresses(place: &str) -> Failure {
    let problem = "must be a data URL (data:image/png;base64,...); this server fetches nothing from addresses";
    Failure::request(place, problem)
}

/// The rest of an address of this scheme, whatever the case of its letters.
fn after_scheme<'a>(address: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = address.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

/// The bytes of a data URL after its scheme.
fn decode(url: &str) -> Result<Vec<u8>, &'static str> {
    let (head, data) = url.split_once(',').ok_or("is a data URL without a comma before its data")?;
    if !head.rsplit(';').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("base64")) {
        return Err("is a data URL without \";base64\" before its comma");
    }
    // Lines of base64 have ends, as `base64` of a shell writes them.
    let spaced = data.bytes().any(|byte| byte.is_ascii_whitespace());
    let joined: String;
    let data = match spaced {
        true => {
            joined = data.split_ascii_whitespace().collect();
            &joined
        }
        false => data,
    };
    match BASE64.decode(data).or_else(|_| BASE64_OF_ADDRESSES.decode(data)) {
        Ok(bytes) if bytes.is_empty() => Err("is a data URL without data"),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("is a data URL whose data is not base64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_read() {
        for good in ["image/png;base64,aGk=", ";base64,aGk", "image/png;charset=x;BASE64,aG\nk=", "base64,aGk="] {
            assert_eq!(decode(good).as_deref(), Ok(b"hi".as_slice()), "{good}");
        }
        assert_eq!(decode(";base64,-_-_").as_deref(), decode(";base64,+/+/").as_deref());
        for bad in ["image/png;base64", "image/png,hi", "image/png;base64,", "image/png;base64,a$b=", ";base64,aGk=x"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
        assert_eq!(after_scheme("DATA:x", "data:"), Some("x"));
        assert_eq!(after_scheme("dat", "data:"), None);
        assert_eq!(after_scheme("dät:x", "data:"), None);
    }
}
