//! The language models, with the calls generation makes: embed ids, record blocks over a cache.

pub mod kv_cache;
pub mod llama;

pub use kv_cache::KvCache;
pub use llama::Llama;
