//! Generation: a prompt through the language model once, then one token after another.
//!
//! The plain case, one likeliest token after another, never leaves the device: the chosen token stays in a buffer,
//! where the next step reads it, and the host reads it back one step later. Where a token is drawn from the few
//! likeliest, the device finds these, and the host draws. Everything else (penalties, beams, draws from all tokens)
//! looks at all of a step's logits on the host; either way it writes the tokens that the next step reads.

mod answering;
pub mod beam;
mod limits;
mod logprobs;
pub mod options;
pub mod processors;
mod row;
pub mod scores;
pub mod session;
mod slots;
mod tokens;

pub use limits::{FinishReason, HasStop, Limits, MAX_PROMPT_TOKENS, check_fits, new_tokens_that_fit};
pub use logprobs::TokenLogprob;
pub use options::{EarlyStopping, GenerateOptions};
pub use row::{Prompted, Sequence};
pub use session::{Capacity, PromptInputs, Room, Session, form_rows};
pub use slots::{AnswerId, Joining, News, Slots};
pub use tokens::Tokens;
