//! The desktop app: captions folders of pictures with InstructBLIP, and shows where it looks and how sure it is.
//!
//! ```text
//! captions     the document: pictures, captions, undo, files, journal          no window, no model
//! work         the model's thread: commands in, events out                     no window
//! settings     what is kept from one start to the next
//! thumbnails   pictures read and shrunk by threads, textures while they are seen
//! tasks        other things that take a while, each on a thread
//! app          the state, what events and keys do to it
//! views        one file a panel, drawn from the state
//! ```
//!
//! The window's thread never waits: it takes what threads told since the last frame, and they wake it.

pub mod app;
pub mod captions;
pub mod frames;
pub mod selection;
pub mod settings;
pub mod tasks;
pub mod thumbnails;
pub mod views;
pub mod work;
