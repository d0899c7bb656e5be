//! Pictures at addresses. A client that may name addresses could make this machine ask its own network, so: encrypted
//! connections only, to hosts that the owner lists, at public addresses alone, looked up once and connected to as they
//! were checked, without redirects, and no larger or slower than a picture may be.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// Time for all of a picture.
const MOST_TIME: Duration = Duration::from_secs(20);

/// Pictures that are fetched at once.
const AT_ONCE: usize = 8;

/// Hosts that pictures are fetched from.
#[derive(Debug)]
pub struct Remote {
    hosts: Vec<String>,
    agent: Option<Agent>,
    most_bytes: u64,
    at_once: Arc<Semaphore>,
}

impl Remote {
    /// Fetches from these hosts, or from any where one is `*`, pictures of so many bytes at most.
    ///
    /// # Errors
    /// Those of a file of authorities that the environment names.
    pub fn new(hosts: &[String], most_bytes: u64) -> instructblip::Result<Remote> {
        let agent = instructblip::hub::encryption()?.map(|encryption| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .https_only(true)
                .max_redirects(0)
                // A proxy would look names up by itself.
                .proxy(None)
                .timeout_global(Some(MOST_TIME))
                .user_agent(concat!("instructblip/", env!("CARGO_PKG_VERSION")))
                .tls_config(encryption);
            Agent::with_parts(config.build(), DefaultConnector::default(), Checked(DefaultResolver::default()))
        });
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Ok(Remote { hosts, agent, most_bytes, at_once: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Fetches a picture, on a thread that may wait.
    ///
    /// # Errors
    /// The refusal, in words that tell nothing of this machine's network.
    pub async fn fetch(remote: &Arc<Remote>, address: String) -> Result<Vec<u8>, String> {
        let uri = remote.check(&address)?;
        let _one_of_few = remote.at_once.clone().acquire_owned().await.map_err(|_| "the server is stopping")?;
        let remote = remote.clone();
        let fetched = tokio::task::spawn_blocking(move || remote.get(uri)).await;
        fetched.unwrap_or_else(|_| Err("cannot be fetched".into()))
    }

    /// Reads an address by the one parser that also connects to it.
    fn check(&self, address: &str) -> Result<Uri, String> {
        let uri: Uri = address.parse().map_err(|_| "is no address that can be read")?;
        if uri.scheme_str() != Some("https") {
            return Err("must be a data URL or begin with https://".into());
        }
        let authority = uri.authority().ok_or("is an address without a host")?;
        if authority.as_str().contains('@') {
            return Err("has a name or password in its address".into());
        }
        if !matches!(authority.port_u16(), None | Some(443)) || authority.as_str().ends_with(':') {
            return Err("must be at the usual port of https".into());
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        match self.hosts.iter().any(|allowed| allowed == "*" || *allowed == host) {
            true => Ok(uri),
            false => Err("is at a host that this server does not fetch from (--image-host)".into()),
        }
    }

    fn get(&self, uri: Uri) -> Result<Vec<u8>, String> {
        let agent = self.agent.as_ref().ok_or("cannot be fetched: this processor cannot encrypt connections here")?;
        // One answer for whatever went wrong: others would tell which hosts and ports there are.
        let failed = "cannot be fetched from its address";
        let response = agent.get(uri).call().map_err(|_| failed)?;
        if response.status() != 200 {
            return Err(failed.into());
        }
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(self.most_bytes + 1).read_to_end(&mut bytes).map_err(|_| failed)?;
        match bytes.len() as u64 > self.most_bytes {
            true => Err(format!("is larger than {} bytes", self.most_bytes)),
            false => Ok(bytes),
        }
    }
}

/// A lookup of names that gives public addresses, or nothing.
#[derive(Debug)]
struct Checked(DefaultResolver);

impl Resolver for Checked {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        // One that is not public among public ones is a trick, too.
        match found.iter().all(|address| is_public(address.ip())) {
            true => Ok(found),
            false => Err(ureq::Error::HostNotFound),
        }
    }
}

/// Tells whether an address is one of the public internet, by IANA's registries of special-purpose addresses.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within = |net: [u8; 4], bits: u32| address.to_bits() >> (32 - bits) == u32::from_be_bytes(net) >> (32 - bits);
    let special: [([u8; 4], u32); 14] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        // Groups, and what is reserved behind them.
        ([224, 0, 0, 0], 3),
    ];
    !special.iter().any(|(net, bits)| within(*net, *bits))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Whatever carries an address of the older kind (mapped, 6to4, Teredo, NAT64), documentation, and everything that is
    // no global unicast.
    let carries = (first == 0x2001 && second < 0x200) || first == 0x2002;
    let examples = (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
    first >> 13 == 1 && !carries && !examples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_and_other_networks_are_told_apart() {
        let own = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.8.8.8 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 \
                   192.168.1.1 198.18.0.1 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 \
                   ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 2001:db8::1 \
                   2001::1 2002:7f00:1:: 3fff::1 100::1 5f00::1";
        for address in own.split_whitespace() {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
        for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"] {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
    }

    #[test]
    fn only_listed_hosts_are_asked_as_they_are_read() {
        let remote = Remote::new(&["images.example".into()], 1000).expect("a client");
        assert!(remote.check("https://images.example/a.png?b=c").is_ok());
        assert!(remote.check("https://IMAGES.example.:443/a.png").is_ok());
        let bad = "http://images.example/a https://other.example/a https://images.example:8443/a file:///etc/passwd \
                   https://images.example@other.example/a https://other.example/images.example https:///a /etc/passwd \
                   https://images.example\\@other.example/ https://other.example\\.images.example/ https://127.0.0.1/a \
                   https://[::1]/ https://images.example.other.example/ https://0x7f000001/ ftp://images.example/a \
                   https://2130706433/ https://images.example%2eother.example/ gopher://images.example/ \
                   https://user:word@images.example/";
        for address in bad.split_whitespace() {
            assert!(remote.check(address).is_err(), "{address}");
        }
    }

    /// The addresses of a listed name are looked at before anybody connects: these lead to this machine.
    #[tokio::test]
    async fn names_of_this_machine_lead_nowhere() {
        let remote = Arc::new(Remote::new(&["*".into()], 1000).expect("a client"));
        for address in ["https://localhost/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/"] {
            let problem = Remote::fetch(&remote, address.into()).await.expect_err(address);
            assert_eq!(problem, "cannot be fetched from its address", "{address}");
        }
    }
}
