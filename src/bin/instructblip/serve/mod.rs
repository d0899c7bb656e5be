//! `instructblip serve`: the model for other programs, over HTTP, as OpenAI's clients ask, and a page to try it.
//!
//! ```text
//!  http ─► guard ─► route: about · chat · looking · page ─► served: the engine, on a thread of its own
//!  connections     who may ask    fields, pictures           its events come back to the route
//! ```

mod about;
mod body;
mod chat;
mod failure;
mod fields;
mod guard;
mod http;
mod line;
mod looking;
mod metrics;
mod page;
mod pictures;
#[cfg(feature = "hub")]
mod remote;
mod served;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use clap::Args;
use instructblip::model::Workload;
use instructblip::processor::ImageOptions;
use instructblip::{Error, GenerateOptions, InstructBlip};
use tokio::net::TcpListener;
use tracing::level_filters::LevelFilter;

use crate::common::{Common, Gpu};
use crate::ended::Ended;
use crate::options::Model;
use crate::progress::say;
use crate::session::{Chosen, chosen};
use crate::side_by_side::Slots;
use crate::signals::asked_to_end;
use failure::Failure;
use served::Ready;
pub use served::plain;

/// Time that threads have to let go of what was cancelled.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Time between looks at whether the program is asked to end.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Address to listen at; others than this machine's own need --api-key or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", env = "INSTRUCTBLIP_HOST", value_parser = address)]
    pub host: IpAddr,
    /// Port to listen at; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "INSTRUCTBLIP_PORT")]
    pub port: u16,
    /// Key that requests must have, as Authorization: Bearer KEY; better in the environment, where others do not see it
    #[arg(long, value_name = "KEY", env = "INSTRUCTBLIP_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// File that has the key instead
    #[arg(long, value_name = "FILE", env = "INSTRUCTBLIP_API_KEY_FILE", conflicts_with = "api_key")]
    pub api_key_file: Option<PathBuf>,
    /// Let whoever reaches the address ask, without a key
    #[arg(long, env = "INSTRUCTBLIP_INSECURE", value_parser = yes_or_no)]
    pub insecure: bool,
    /// Name of this machine that requests may be sent to, besides its addresses and localhost; may be repeated
    #[arg(long, value_name = "NAME", env = "INSTRUCTBLIP_ALLOW_HOST", value_delimiter = ',', value_parser = host)]
    pub allow_host: Vec<String>,
    /// Origin of pages that may ask, such as https://app.example, or * for any; may be repeated
    #[arg(long, value_name = "ORIGIN", env = "INSTRUCTBLIP_CORS_ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<String>,
    /// Host that pictures may be fetched from over https, or * for any public one; none if left out; may be repeated
    #[cfg(feature = "hub")]
    #[arg(long, value_name = "HOST", env = "INSTRUCTBLIP_IMAGE_HOST", value_delimiter = ',', value_parser = host)]
    pub image_host: Vec<String>,
    /// Most bytes of a request; a picture in base64 takes a third more than its file
    #[arg(long, value_name = "SIZE", default_value = "20MiB", value_parser = crate::options::size)]
    pub body_limit: u64,
    /// Seconds that the body of a request may take to come
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub body_time: u32,
    /// Questions that may be taken and not answered; others are told to come later (503)
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub queue: u32,
    /// Most new tokens of an answer: requests that ask for more get these
    #[arg(long, value_name = "N", default_value_t = 256, env = "INSTRUCTBLIP_MAX_NEW_TOKENS",
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_new_tokens: u32,
    /// Seconds that answers under way have to end once the server is asked to
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u32,
    /// End as if asked to once standard input ends, which it does when the program is gone that started this one
    #[arg(long)]
    pub until_stdin_ends: bool,
    /// Level of the log on stderr; the line of each request has the level info
    #[arg(long, value_name = "off|error|warn|info|debug", default_value = "info", env = "INSTRUCTBLIP_LOG")]
    pub log: LevelFilter,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub model: Model,
    #[command(flatten)]
    pub gpu: Gpu,
}

impl Serve {
    /// The most that is asked of the model at once.
    fn workload(&self) -> Workload {
        let options = GenerateOptions::up_to(self.max_new_tokens);
        self.slots.workload(&options, usize::MAX, 1)
    }

    /// The key that requests must have.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Request`] for what is no key.
    fn key(&self) -> Result<Option<String>> {
        // Compose files pass variables that are empty.
        let key = match (self.api_key.as_ref().filter(|key| !key.is_empty()), &self.api_key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file);
                text.map_err(|source| Error::Io { path: file.clone(), source })?.trim().into()
            }
            (None, None) => return Ok(None),
        };
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Some(key)),
            false => {
                Err(Error::Request { problem: "the API key must be letters, digits and signs, on one line".into() }
                    .into())
            }
        }
    }

    /// Refuses what would open the machine to others, or could not work.
    fn check(&self, key: Option<&str>) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request { problem }.into());
        if !self.host.is_loopback() && key.is_none() && !self.insecure {
            return refuse(format!(
                "--host {} can be reached from other machines: set a key with --api-key or INSTRUCTBLIP_API_KEY, or say \
                 --insecure",
                self.host
            ));
        }
        if self.body_limit > 1 << 30 {
            return refuse(format!("--body-limit is {} bytes; the most is 1 GiB", self.body_limit));
        }
        Ok(())
    }
}

/// Everything that routes need.
pub struct Server {
    served: served::Served,
    pictures: pictures::Pictures,
    /// The limits of pictures.
    images: ImageOptions,
    bodies: body::Bodies,
    rules: guard::Rules,
    metrics: metrics::Metrics,
}

impl Server {
    fn new(serve: &Serve, key: Option<&str>) -> Result<Server> {
        Ok(Server {
            served: served::Served::new(),
            pictures: pictures(serve)?,
            images: serve.model.picture_options.options(),
            bodies: body::Bodies::new(serve.body_limit as usize, Duration::from_secs(serve.body_time.into())),
            rules: guard::Rules::new(key, &serve.allow_host, &serve.cors_origin),
            metrics: metrics::Metrics::new(),
        })
    }

    /// The failure of a question that was asked, whose words came in the field `prompt`; a lost GPU is seen to.
    fn refused(&self, ready: &Arc<Ready>, error: &Error, prompt: &str) -> Failure {
        self.served.heard(error, ready);
        Failure::of(error, prompt)
    }

    /// The routes.
    fn router(self: Arc<Server>) -> Router {
        Router::new()
            .route("/", get(page::page))
            .route("/health", get(about::health))
            .route("/metrics", get(about::metrics))
            .route("/props", get(about::props))
            .route("/v1/models", get(about::models))
            .route("/v1/models/{*name}", get(about::one_model))
            .route("/v1/chat/completions", post(chat::complete))
            .route("/v1/score", post(looking::score))
            .route("/v1/embeddings", post(looking::embeddings))
            .route("/v1/attention", post(looking::attention))
            .layer(from_fn_with_state(self.clone(), guard::guard))
            .with_state(self)
    }
}

#[cfg(feature = "hub")]
fn pictures(serve: &Serve) -> Result<pictures::Pictures> {
    let remote = match serve.image_host.as_slice() {
        [] => None,
        hosts => Some(Arc::new(remote::Remote::new(hosts, serve.body_limit)?)),
    };
    Ok(pictures::Pictures { remote })
}

#[cfg(not(feature = "hub"))]
fn pictures(_: &Serve) -> Result<pictures::Pictures> {
    Ok(pictures::Pictures::default())
}

pub fn run(common: &Common, serve: &Serve) -> Result<()> {
    let key = serve.key()?;
    serve.check(key.as_deref())?;
    let asked = asked_to_end()?;
    tracing_subscriber::fmt()
        .with_max_level(if common.quiet { LevelFilter::ERROR.min(serve.log) } else { serve.log })
        .with_target(false)
        .with_ansi(common.is_coloured())
        .with_writer(std::io::stderr)
        .init();
    if serve.until_stdin_ends {
        let asked = asked.clone();
        std::thread::spawn(move || {
            // What comes is of no interest, and an error ends it, too.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            asked.store(true, Ordering::Relaxed);
        });
    }
    let server = Arc::new(Server::new(serve, key.as_deref())?);
    // A model that cannot be loaded is told before anybody could ask it.
    if let Some(model) = &serve.model.model {
        let Chosen { checkpoint, adapter } = chosen(model, serve.model.lora.as_deref())?;
        InstructBlip::check(&checkpoint, adapter.as_ref())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|source| Error::Io { path: "threads of the server".into(), source })?;
    let listener = runtime.block_on(listen(serve))?;
    let address = listener.local_addr().map_err(|source| Error::Io { path: "the server's address".into(), source })?;
    say(&format!("listening at http://{address}"));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let kept = server.served.keep(common, serve);
            failed.store(kept.is_err(), Ordering::Relaxed);
            kept
        });
        let stop = stopped(&server, || asked.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed));
        let drain = Duration::from_secs(serve.drain.into());
        let drained =
            runtime.block_on(http::serve(listener, server.clone().router(), stop, drain, || server.served.cancel()));
        // Whoever is not done by now is not waited for: what works for them is cancelled, and ends.
        runtime.shutdown_timeout(LETTING_GO);
        match loading.join() {
            Ok(kept) => kept?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        match drained {
            true => Ok(()),
            false => Err(Ended::new(75, format!("stopped; some answers took longer than {} s", serve.drain)).into()),
        }
    })
}

/// Listens where the options say.
async fn listen(serve: &Serve) -> Result<TcpListener> {
    let address = SocketAddr::new(serve.host, serve.port);
    TcpListener::bind(address).await.map_err(|error| {
        let problem = match error.kind() {
            ErrorKind::AddrInUse => format!("port {} is in use; choose another with --port", serve.port),
            ErrorKind::PermissionDenied => format!("port {} is for administrators; choose one above 1023", serve.port),
            ErrorKind::AddrNotAvailable => format!("this machine has no address {}", serve.host),
            _ => format!("cannot listen at {address}: {error}"),
        };
        Error::Request { problem }.into()
    })
}

/// An address of this machine; of names only the one that means the same on every machine.
fn address(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        text => {
            text.parse().map_err(|_| "give an address, such as 0.0.0.0 for all of this machine's, or localhost".into())
        }
    }
}

/// The name of a host, without what stands around it in an address; or `*`.
fn host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && !text.contains(['/', ':', '@', ' ']);
    is_name.then(|| text.into()).ok_or_else(|| "give a name alone, such as pictures.example".into())
}

/// An origin as browsers write it, or `*`.
fn origin(text: &str) -> Result<String, String> {
    let origin = text.strip_suffix('/').unwrap_or(text);
    let rest = origin.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, rest)| rest);
    match origin == "*" || rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', ' '])) {
        true => Ok(origin.into()),
        false => Err("give scheme and host, such as https://app.example, or *".into()),
    }
}

/// A switch that opens the machine to others is not thrown by a word that means something else.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" | "y" => Ok(true),
        "" | "0" | "false" | "no" | "off" | "n" => Ok(false),
        _ => Err("say true or false".into()),
    }
}

/// Waits until the server is to stop, and has it take nothing more.
async fn stopped(server: &Server, is_asked: impl Fn() -> bool) {
    while !is_asked() {
        tokio::time::sleep(LOOK).await;
    }
    if server.served.status() == "ok" {
        tracing::info!("stopping; answers under way may end");
    }
    server.served.stop();
}
