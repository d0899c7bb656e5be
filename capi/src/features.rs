//! Features of pictures, and where in a picture the model looks.

use instructblip::engine::{Outcome, Request};
use instructblip::model::{AttentionMaps, Features};

use crate::arguments::reference;
use crate::open::Model;
use crate::question::{Question, question};
use crate::results::Floats;
use crate::status::{Failure, Status, guard};

/// The features of a question's picture, with the outputs of these labels.
///
/// # Safety
/// The pointers are as the header wants them.
unsafe fn features(
    model: *const Model,
    asked: *const Question,
    taps: impl FnOnce(&Model) -> Vec<String>,
) -> Result<Features, Failure> {
    // SAFETY: the caller's promise.
    let outcome = unsafe {
        let (model, asked) = (reference(model, "model")?, question(asked)?);
        let request = Request { features: Some(taps(model)), ..asked.request()? };
        model.ask(asked, request)?
    };
    match outcome {
        Outcome::Features(features) => Ok(*features),
        Outcome::Reply(_) | Outcome::Scores(_) => unreachable!("features were asked for"),
    }
}

/// A place for numbers, or `None` for NULL, and no numbers in it yet.
///
/// # Safety
/// It is NULL or may be written to.
unsafe fn empty<'a>(place: *mut Floats) -> Option<&'a mut Floats> {
    // SAFETY: the caller's promise.
    let place = unsafe { place.as_mut() }?;
    *place = Floats::NONE;
    Some(place)
}

/// Gives the features of a picture that is read with the question's prompt: `image`, D numbers of the vision tower
/// (its class token); `queries`, the Q-Former's Q rows in its own width; and `projected`, the same rows in the
/// language model's width: `shape` has each one's. Each may be NULL; those given are to be freed with
/// instructblip_floats_free. `params` must be valid and change nothing; `on_text` hears nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_embed(
    model: *const Model,
    question: *const Question,
    image: *mut Floats,
    queries: *mut Floats,
    projected: *mut Floats,
) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        let (places, found) = unsafe {
            let places = [empty(image), empty(queries), empty(projected)];
            (places, features(model, question, |_| Vec::new())?)
        };
        for (place, tensor) in places.into_iter().zip([found.image, found.queries, found.projected]) {
            if let Some(place) = place {
                *place = Floats::of(tensor);
            }
        }
        Ok(())
    })
}

/// Gives the weights with which the Q-Former's queries look at a picture that is read with the question's prompt, by
/// layer, head, query and key; to be freed with instructblip_floats_free. Key 0 is the picture as a whole, the others
/// are its square patches row by row; the weights of a query add up to 1. Layers are those that look at the picture,
/// from the first on. `params` must be valid and change nothing; `on_text` hears nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn instructblip_attention(
    model: *const Model,
    question: *const Question,
    weights: *mut Floats,
) -> Status {
    guard(|| {
        // SAFETY: the caller's pointers, as the header wants them.
        let (weights, config, found) = unsafe {
            let weights = empty(weights).ok_or_else(|| Failure::argument("weights is NULL"))?;
            let found = features(model, question, |model| AttentionMaps::taps(model.config()))?;
            (weights, reference(model, "model")?.config(), found)
        };
        let maps = AttentionMaps::of(config, &found)?;
        let keys = 1 + maps.patches * maps.patches;
        *weights = Floats::new(maps.weights.concat(), &[maps.layers.len(), maps.heads, maps.queries, keys]);
        Ok(())
    })
}
