//! A repository's files, the ones of them that a model needs, and their licence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::client::{Client, Failure, header};
use super::names::is_hex;
use crate::checkpoint::names::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, QFORMER_TOKENIZER, TOKENIZER, WEIGHTS, Weights, is_adapter_alone,
    is_pickle, is_plain, is_shard, shards, wanted,
};
use crate::error::{Error, Result};

/// Largest description of a repository that is read.
const MAX_LISTING: u64 = 32 << 20;

/// A repository at one commit.
pub(super) struct Listing {
    /// Its name.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// The licence, if stated where the hub reads it.
    pub licence: Option<String>,
    files: BTreeMap<String, (Option<u64>, Option<Identity>)>,
}

/// A file that a model needs.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Path inside the repository, checked.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// The bytes that the file must have.
    pub identity: Identity,
}

/// The identity of a file's bytes as the hub gives it; also the name of its blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// sha256 of the bytes: large files.
    Sha256(String),
    /// git's hash of the file: small files.
    Git(String),
    /// The file's name and what a server calls this version of it; nothing to check the bytes against.
    Version(String),
}

impl Listing {
    /// Asks the hub which files a repository has.
    pub(super) fn ask(client: &Client, repo: &str, revision: &str) -> Result<Listing, Failure> {
        let revision = revision.replace('/', "%2F");
        let url = client.address(&format!("api/models/{repo}/revision/{revision}?blobs=true"));
        let response = client.get(repo, &url, &[])?;
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(MAX_LISTING).read_to_end(&mut bytes);
        read.map_err(|_| Failure::Again { problem: "the connection was cut".into(), wait: None, progress: false })?;
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Listing::parse(repo, &json).ok_or_else(|| {
            let problem = "the server does not describe the repository as the hub does; check HF_ENDPOINT and proxies";
            Error::download(repo, problem, true)
        })?)
    }

    fn parse(repo: &str, json: &Value) -> Option<Listing> {
        let commit = json.get("sha")?.as_str().filter(|sha| is_hex(sha, 40))?.to_string();
        let mut files = BTreeMap::new();
        for file in json.get("siblings")?.as_array()? {
            let name = file.get("rfilename")?.as_str()?.to_string();
            let text = |pointer: &str| file.pointer(pointer).and_then(Value::as_str);
            let large = text("/lfs/sha256").filter(|hash| is_hex(hash, 64)).map(|hash| Identity::Sha256(hash.into()));
            let small = || text("/blobId").filter(|hash| is_hex(hash, 40)).map(|hash| Identity::Git(hash.into()));
            // The blob of a large file is a pointer to it, so its hash says nothing about the file.
            let identity = if file.get("lfs").is_some_and(Value::is_object) { large } else { small() };
            files.insert(name, (file.get("size").and_then(Value::as_u64), identity));
        }
        let licence = json.get("cardData").and_then(licence_of);
        Some(Listing { repo: repo.into(), commit, licence, files })
    }

    /// The files beside the weights, the configuration first.
    pub(super) fn small_files(&self) -> Vec<String> {
        wanted(self.files.keys().map(String::as_str)).into_iter().map(String::from).collect()
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// True if the repository is an adapter, whose base is another repository.
    pub(super) fn is_adapter_alone(&self) -> bool {
        is_adapter_alone(|name| self.has(name))
    }

    fn refuse(&self, problem: String) -> Result<()> {
        Err(Error::download(&self.repo, problem, false))
    }

    /// Refuses, before anything is fetched, a repository that is no model this program could read.
    pub(super) fn check(&self) -> Result<()> {
        if self.has(ADAPTER_CONFIG) && !self.has(ADAPTER_WEIGHTS) {
            let problem = match self.has("adapter_model.bin") {
                true => {
                    "which can run code when opened and is not fetched; load the adapter once with peft in Python \
                         and save it again"
                }
                false => "so it is no adapter as peft writes one",
            };
            let has = if self.has("adapter_model.bin") { "adapter_model.bin only, " } else { "" };
            return self.refuse(format!("has {ADAPTER_CONFIG}, but {has}no {ADAPTER_WEIGHTS}, {problem}"));
        }
        if self.is_adapter_alone() {
            return Ok(());
        }
        if Weights::among(|name| self.has(name)).is_none() {
            if self.files.keys().any(|name| is_pickle(name)) {
                return self.refuse(format!(
                    "has only pickled weights, which can run code when opened and are not fetched; convert them once in \
                     Python: InstructBlipForConditionalGeneration.from_pretrained({:?}).save_pretrained(dir), and the \
                     same with InstructBlipProcessor; then use dir as the model",
                    self.repo
                ));
            }
            return self.refuse(format!("has neither {WEIGHTS} nor {INDEX}"));
        }
        if !self.has(CONFIG) {
            return self.refuse(format!("has no {CONFIG}, so it is no model as save_pretrained writes one"));
        }
        match self.has(TOKENIZER) {
            true => Ok(()),
            false => self.refuse(format!(
                "has no {TOKENIZER}; transformers writes it from the older tokenizer files, once, in Python: \
                 AutoProcessor.from_pretrained({0:?}).save_pretrained(dir), and the same with the model; then use dir \
                 as the model",
                self.repo
            )),
        }
    }

    /// Refuses a model whose Q-Former reads the instruction and has no tokenizer for it.
    pub(super) fn check_qformer(&self) -> Result<()> {
        match self.has(QFORMER_TOKENIZER) {
            true => Ok(()),
            false => self.refuse(format!(
                "has no {QFORMER_TOKENIZER}, which the Q-Former of its model reads instructions with; take another \
                 repository of this model, or one that InstructBlipProcessor.save_pretrained wrote"
            )),
        }
    }

    /// The weights: the one file, or the shards the index names; and the adapter's, where there is one.
    pub(super) fn weights(&self, index: Option<&[u8]>) -> Result<Vec<String>> {
        let mut names = match Weights::among(|name| self.has(name)) {
            Some(Weights::Single) => vec![WEIGHTS.to_string()],
            Some(Weights::Sharded) => self.shards(index.unwrap_or_default())?,
            None => Vec::new(),
        };
        names.extend(self.has(ADAPTER_CONFIG).then(|| ADAPTER_WEIGHTS.into()));
        Ok(names)
    }

    fn shards(&self, index: &[u8]) -> Result<Vec<String>> {
        let refuse = |problem: String| Error::download(format!("{}: {INDEX}", self.repo), problem, false);
        let names = shards(index).ok_or_else(|| refuse("is not an index of weights".into()))?;
        for name in &names {
            if !is_shard(name) {
                return Err(refuse(format!("names a shard {name:?}, which is not a plain file name")));
            }
            if !self.has(name) {
                return Err(refuse(format!("names a shard {name}, which the repository does not have")));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Size and identity of a file, asked for where the listing does not tell.
    pub(super) fn item(&self, client: &Client, name: &str) -> Result<Item, Failure> {
        let (size, identity) = self.files.get(name).cloned().unwrap_or_default();
        if let (Some(size), Some(identity)) = (size, identity) {
            return Ok(Item { name: name.into(), size, identity });
        }
        let what = format!("{}: {name}", self.repo);
        let response = client.head(&what, &self.url(client, name))?;
        let size = ["x-linked-size", "content-length"].iter().find_map(|name| header(&response, name)?.parse().ok());
        let (Some(size), Some(identity)) = (size, etag(&response, name)) else {
            return Err(Error::download(what, "the server does not say how large it is and which version", true).into());
        };
        Ok(Item { name: name.into(), size, identity })
    }

    /// The address of a file, at this commit.
    pub(super) fn url(&self, client: &Client, name: &str) -> String {
        client.address(&format!("{}/resolve/{}/{name}", self.repo, self.commit))
    }
}

impl Identity {
    /// The name of the blob.
    pub(super) fn name(&self) -> &str {
        match self {
            Identity::Sha256(name) | Identity::Git(name) | Identity::Version(name) => name,
        }
    }

    /// True if a file that should have `size` bytes has these. Reads it through the given handle, as others may be
    /// locked out.
    pub(super) fn matches(&self, file: &mut File, size: u64) -> std::io::Result<bool> {
        if file.metadata()?.len() != size {
            return Ok(false);
        }
        file.rewind()?;
        match self {
            Identity::Sha256(want) => Ok(hash(Sha256::new(), file)? == *want),
            Identity::Git(want) => Ok(hash(Sha1::new_with_prefix(format!("blob {size}\0")), file)? == *want),
            Identity::Version(_) => Ok(true),
        }
    }
}

fn hash(mut hasher: impl Digest, file: &mut File) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The version of the file that a response tells.
fn etag(response: &Response<Body>, name: &str) -> Option<Identity> {
    let text = header(response, "x-linked-etag").or_else(|| header(response, "etag"))?;
    let text = text.trim_start_matches("W/").trim_matches('"');
    match text {
        _ if is_hex(text, 64) => Some(Identity::Sha256(text.into())),
        _ if is_hex(text, 40) => Some(Identity::Git(text.into())),
        // Such versions may be the same for several files.
        _ if is_plain(text) && text.len() < 100 => {
            Some(Identity::Version(format!("{}-{text}", name.replace('/', "-"))))
        }
        _ => None,
    }
}

/// The licence in a model card's data: a name, or several; `other` has a name of its own.
fn licence_of(card: &Value) -> Option<String> {
    let names: Vec<&str> = match card.get("license")? {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => vec![one.as_str()?],
    };
    let own = card.get("license_name").and_then(Value::as_str).map_or(String::new(), |name| format!(" ({name})"));
    printable(&format!("{}{own}", names.join(", ")))
}

/// The licence in the front matter of a model card.
pub(super) fn licence_in_readme(text: &str) -> Option<String> {
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    lines.next().filter(|line| line.trim() == "---")?;
    let matter: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let value = |key: &str| {
        let at = matter.iter().position(|line| line.starts_with(key))?;
        let plain = |text: &str| text.trim().trim_matches(['"', '\'']).to_string();
        let here = plain(&matter[at][key.len()..]);
        let list = matter[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- ")).map(plain);
        Some(if here.is_empty() { list.collect::<Vec<_>>().join(", ") } else { here })
    };
    let own = value("license_name:").map_or(String::new(), |name| format!(" ({name})"));
    printable(&format!("{}{own}", value("license:")?))
}

/// Text of a server or a file, safe to print on a line.
pub(super) fn printable(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn licences_are_read_from_both_places() {
        for (card, want) in [
            (json!({"license": "mit"}), Some("mit")),
            (json!({"license": "other", "license_name": "llama2"}), Some("other (llama2)")),
            (json!({"license": ["mit", "bsd"]}), Some("mit, bsd")),
            (json!({"license": 7}), None),
            (json!({"license": "a\u{1b}[31m\nb"}), Some("a[31mb")),
            (json!({}), None),
        ] {
            assert_eq!(licence_of(&card).as_deref(), want, "{card}");
        }
        for (text, want) in [
            ("---\nlanguage: en\nlicense: other\n---\n# x", Some("other")),
            ("---\r\nlicense: \"mit\"\r\n---\r\n", Some("mit")),
            ("---\nlicense:\n- mit\n- bsd\ntags:\n- x\n---", Some("mit, bsd")),
            ("---\nlicense: other\nlicense_name: vicuna\n---", Some("other (vicuna)")),
            ("# x\nlicense: mit", None),
            ("---\ntags: x\n---\nlicense: mit", None),
            ("", None),
        ] {
            assert_eq!(licence_in_readme(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn a_commit_is_no_path() {
        assert!(Listing::parse("a/b", &json!({"sha": "0".repeat(40), "siblings": []})).is_some());
        assert!(Listing::parse("a/b", &json!({"sha": "../..", "siblings": []})).is_none());
    }
}
