//! Formats of the parts' weights, and numbers of layers that are on the device at once.

use crate::runtime::WeightFormat;

/// A part of a model; also its place in arrays by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The vision tower.
    Vision,
    /// The Q-Former with the queries and the projection.
    QFormer,
    /// The language model.
    Language,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 3] = [Part::Vision, Part::QFormer, Part::Language];
}

/// The format of each part's linear layers; `None` keeps quantised files as they are and stores others in f16.
///
/// Norms, biases, embeddings, positions, queries, the projection into the language model and the second layer of T5's
/// feed-forward networks are never quantised; the layer that scores the vocabulary is not quantised below 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// Format of the vision tower.
    pub vision: Option<WeightFormat>,
    /// Format of the Q-Former.
    pub qformer: Option<WeightFormat>,
    /// Format of the language model.
    pub language: Option<WeightFormat>,
}

impl Formats {
    /// The usual formats with `format`: q4 rounds the language model to 4 bits and the vision tower to 8, q8 rounds
    /// both to 8. The Q-Former is small and stays in f16.
    pub fn usual(format: WeightFormat) -> Formats {
        let vision = if format == WeightFormat::Q4 { WeightFormat::Q8 } else { format };
        Formats { vision: Some(vision), qformer: Some(WeightFormat::F16), language: Some(format) }
    }

    /// These formats, except for the parts that `chosen` names.
    #[must_use]
    pub fn but_for(self, chosen: Formats) -> Formats {
        Formats {
            vision: chosen.vision.or(self.vision),
            qformer: chosen.qformer.or(self.qformer),
            language: chosen.language.or(self.language),
        }
    }

    pub(super) fn of(&self, part: Part) -> Option<WeightFormat> {
        match part {
            Part::Vision => self.vision,
            Part::QFormer => self.qformer,
            Part::Language => self.language,
        }
    }
}

/// Numbers of layers of each part that stay on the device; the others take turns in the memory of one. `None` keeps
/// all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Number for the vision tower.
    pub vision: Option<u32>,
    /// Number for the language model; T5's encoder's layers come first.
    pub language: Option<u32>,
}

impl Resident {
    /// The number of a part's layers that stay; `None` for all.
    pub fn layers(&self, part: Part) -> Option<u32> {
        match part {
            Part::Vision => self.vision,
            Part::QFormer => None,
            Part::Language => self.language,
        }
    }
}

/// Formats and places of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The formats.
    pub formats: Formats,
    /// The places.
    pub resident: Resident,
}
