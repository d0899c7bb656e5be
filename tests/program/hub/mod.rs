//! Models of the hub, against a server on this machine that misbehaves as networks do.

mod cache;
mod pull;
mod transfer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use instructblip::Error;
use instructblip::hub::Hub;

use crate::support::golden::checkpoint_folder;
use crate::support::program::{program, text};
use crate::support::server::{COMMIT, Server, sha256};

const REPO: &str = "tests/tiny-model";
const FOLDER: &str = "models--tests--tiny-model";
const WEIGHTS: &str = "model.safetensors";

/// A server with one of the tiny checkpoints, a cache, and a hub of both that does not wait long.
struct World {
    server: Server,
    folder: tempfile::TempDir,
    hub: Hub,
}

impl World {
    fn new() -> World {
        World::of("ib-llama")
    }

    fn of(checkpoint: &str) -> World {
        let server = Server::start(REPO, &checkpoint_folder(checkpoint));
        let folder = tempfile::tempdir().expect("a folder");
        let mut hub = Hub::new(folder.path().join("hub"));
        (hub.endpoint, hub.pause, hub.silence) =
            (server.address().into(), Duration::from_millis(5), Duration::from_secs(5));
        World { server, folder, hub }
    }

    fn pull(&self) -> instructblip::Result<PathBuf> {
        self.hub.pull(REPO, None, &mut |_| ControlFlow::Continue(()))
    }

    fn refusal(&self) -> Error {
        self.pull().expect_err("refused")
    }

    /// The program with this cache and server.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("HF_HUB_CACHE", &self.hub.cache).env("HF_ENDPOINT", self.server.address());
        command.env("HF_HOME", self.folder.path()).env("NO_PROXY", "127.0.0.1");
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN_PATH", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().expect("the program runs")
    }

    fn refused(&self, arguments: &[&str], code: i32, parts: &[&str]) {
        let output = self.run(arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
        expect_words(stderr, parts);
    }

    fn blobs(&self) -> PathBuf {
        self.hub.cache.join(FOLDER).join("blobs")
    }

    /// Names in the folder of blobs.
    fn blob_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.blobs()).expect("blobs");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    fn unfinished(&self) -> Vec<PathBuf> {
        let names = self.blob_names().into_iter().filter(|name| name.ends_with(".incomplete"));
        names.map(|name| self.blobs().join(name)).collect()
    }

    /// Requires the weights to be in the snapshot as the server has them, and nothing unfinished beside them.
    fn expect_whole(&self, snapshot: &Path) {
        assert!(std::fs::read(snapshot.join(WEIGHTS)).expect("weights") == self.server.file(WEIGHTS), "other bytes");
        let odd: Vec<_> = self.blob_names().into_iter().filter(|name| name.contains('.')).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }

    /// Requires that nothing has the weights' name.
    fn expect_no_weights(&self) {
        assert!(!self.blobs().join(sha256(&self.server.file(WEIGHTS))).exists());
        assert!(!self.hub.cache.join(FOLDER).join("snapshots").join(COMMIT).join(WEIGHTS).exists());
        assert_eq!(self.hub.find(REPO, None).expect("a name"), None);
    }
}

/// Requires words, and none of the libraries'.
fn expect_words(message: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in {message}"));
    for foreign in ["panicked", "internal error", "ureq", "rustls", "Error(", "Err(", "io: ", "kind:", "protocol:"] {
        assert!(!message.contains(foreign), "a library's words in {message}");
    }
}

/// Requires a download's error, whether trying again may help, and words.
fn expect_download(error: &Error, again: bool, parts: &[&str]) {
    let Error::Download { again: said, .. } = error else { panic!("{error:?}") };
    expect_words(&error.to_string(), parts);
    assert_eq!(*said, again, "{error}");
}
