//! The weights that are on the device: all of them, or, where there is no room for that, those of one stage at a time.

use std::sync::Arc;

use super::look::VisionStage;
use super::{InstructBlip, Parts};
use crate::config::Config;
use crate::error::Result;
use crate::generate::{Capacity, Room, Session, Slots};
use crate::language::Language;
use crate::runtime::{Device, Work};
use crate::weights::{LoadReport, Loaded, Loader, Part, Placement, Progress, TensorFiles};

/// The stage that answers: the language model, and the slots that were used last.
pub(super) struct LanguageStage {
    pub language: Language,
    slots: Option<Slots>,
}

/// The files that the stages' weights come from, and the formats and places they get.
pub(super) struct Residence {
    /// The checkpoint's configuration: for pictures of the size it was trained with.
    pub config: Config,
    pub files: Arc<TensorFiles>,
    pub placement: Placement,
    pub surveyed: Loaded,
    /// The stages take turns on the device.
    pub offload: bool,
}

impl Residence {
    fn loader<'a>(&'a self, device: &'a Device, parts: &'a [Part], progress: &'a mut Progress<'a>) -> Loader<'a> {
        Loader::load(&self.files, device, self.placement, self.surveyed.names(parts), progress)
    }

    /// Loads all parts at once.
    pub fn load_all(&self, device: &Device, progress: &mut Progress<'_>) -> Result<(Parts, Loaded)> {
        let mut loader = self.loader(device, &Part::ALL, progress);
        let parts = Parts::load(&mut loader, &self.config)?;
        Ok((parts, loader.finish()?))
    }

    /// Loads the vision tower and the Q-Former, for pictures of `side` pixels if that is not the checkpoint's size,
    /// and as many of them at once.
    pub fn load_vision(
        &self,
        device: &Device,
        (side, at_once): (Option<u32>, u32),
        progress: &mut Progress<'_>,
    ) -> Result<(VisionStage, LoadReport)> {
        let mut loader = self.loader(device, &[Part::Vision, Part::QFormer], progress);
        let (vision, qformer) = Parts::load_vision_stage(&mut loader, &self.config)?;
        let report = loader.finish()?.report;
        let mut stage = VisionStage::new(device, vision, qformer, self.config.vision.image_size, at_once)?;
        if let Some(side) = side {
            stage.resize(side)?;
        }
        Ok((stage, report))
    }

    /// Loads the language model.
    pub fn load_language(&self, device: &Device, progress: &mut Progress<'_>) -> Result<(LanguageStage, LoadReport)> {
        let mut loader = self.loader(device, &[Part::Language], progress);
        let language = Parts::load_language(&mut loader, &self.config)?;
        let report = loader.finish()?.report;
        Ok((LanguageStage { language, slots: None }, report))
    }
}

impl InstructBlip {
    /// Brings the vision tower and the Q-Former onto the device, unless they are there.
    pub(super) fn bring_vision(&mut self) -> Result<()> {
        if self.vision.is_none() {
            self.language = None; // its weights make room
            self.device.trim()?;
            let mut goes_on = |_| self.device.tell(&Work::Running);
            self.vision = Some(self.residence.load_vision(&self.device, (self.side, self.at_once), &mut goes_on)?.0);
        }
        Ok(())
    }

    /// Brings the language model onto the device, unless it is there.
    fn bring_weights(&mut self) -> Result<&mut LanguageStage> {
        if self.residence.offload {
            self.vision = None; // its weights make room
            self.device.trim()?;
        }
        if self.language.is_none() {
            let mut goes_on = |_| self.device.tell(&Work::Running);
            self.language = Some(self.residence.load_language(&self.device, &mut goes_on)?.0);
        }
        Ok(self.language.as_mut().expect("loaded just now"))
    }

    /// Brings the language model onto the device with slots for answers that take these rooms.
    pub(super) fn bring_language(&mut self, rooms: &[Room]) -> Result<()> {
        let (need, device) = (Capacity::of(rooms), self.device.clone());
        let stage = self.bring_weights()?;
        match stage.slots.as_mut().filter(|slots| slots.session().capacity().holds(&need)) {
            Some(slots) => {
                slots.clear(); // of what an earlier request left that failed
                Ok(())
            }
            None => stage.make_slots(&device, need),
        }
    }

    /// Brings the language model onto the device with the slots that an engine asked for.
    pub(super) fn bring_slots(&mut self) -> Result<()> {
        let (need, device) = (self.slots.expect("an engine asks for slots first"), self.device.clone());
        let stage = self.bring_weights()?;
        match stage.slots {
            Some(_) => Ok(()),
            None => stage.make_slots(&device, need),
        }
    }

    /// The model and the slots that [`InstructBlip::bring_language`] brought.
    pub(super) fn language_stage(&mut self) -> (&Language, &mut Slots) {
        self.language.as_mut().expect("bring_language() comes before").parts()
    }
}

impl LanguageStage {
    /// Makes slots of this capacity, in the place of those that there are.
    pub fn make_slots(&mut self, device: &Device, need: Capacity) -> Result<()> {
        self.slots = None; // its cache is freed before the larger one is made
        self.slots = Some(Slots::new(Session::new(device, &self.language, need)?));
        Ok(())
    }

    /// Slots that somebody has.
    pub fn slots_taken(&self) -> u32 {
        self.slots.as_ref().map_or(0, |slots| slots.session().capacity().rows - slots.free())
    }

    /// Tells whether the slots have this room now.
    pub fn has_room(&self, room: &Room) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.have(room))
    }

    /// The model and its slots.
    pub fn parts(&mut self) -> (&Language, &mut Slots) {
        (&self.language, self.slots.as_mut().expect("there are slots before they are used"))
    }
}

impl Loaded {
    /// The names of the tensors that `parts` asked for, in order.
    fn names<'a>(&'a self, parts: &'a [Part]) -> impl Iterator<Item = &'a str> {
        self.tensors.iter().filter(|tensor| parts.contains(&tensor.part)).map(|tensor| tensor.name.as_str())
    }
}
