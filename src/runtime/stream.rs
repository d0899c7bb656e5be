//! Weights that come to the device when they are needed, because there is no room for all of them at once.

use std::sync::OnceLock;

use crate::error::Result;

/// A function that brings a layer's weights.
type Bring = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// A layer whose matrices share their memory with those of other layers. A [`Plan`](super::Plan) has them written each
/// time before the dispatches that read them, in the order of the queue: after what read the layer before, so that the
/// host already writes staging memory while the device still works.
#[derive(Default)]
pub struct Streamed {
    bring: OnceLock<Bring>,
}

impl Streamed {
    /// A layer of which it is not known yet how it comes.
    pub fn new() -> Streamed {
        Streamed::default()
    }

    /// Says how it comes; the first call counts.
    pub fn comes_by(&self, bring: impl Fn() -> Result<()> + Send + Sync + 'static) {
        let _ = self.bring.set(Box::new(bring));
    }

    /// Has the layer's weights written.
    pub(super) fn bring(&self) -> Result<()> {
        self.bring.get().map_or(Ok(()), |bring| bring())
    }
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streamed").field("known", &self.bring.get().is_some()).finish()
    }
}
