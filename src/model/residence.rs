//! Which weights are on the device: all of them, or, where there is no room for that, those of one stage at a time.

use std::sync::Arc;

use super::{InstructBlip, Parts};
use crate::config::Config;
use crate::error::Result;
use crate::generate::{Capacity, Session};
use crate::language::Language;
use crate::qformer::QFormer;
use crate::runtime::plan::Plan;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Category, Device, Tensor};
use crate::vision::{Vision, VisionOutput};
use crate::weights::{LoadReport, Loaded, Loader, Part, Placement, TensorFiles};

/// What looks at pictures: the vision tower with its plan, and the Q-Former.
pub(super) struct Seeing {
    pub vision: Vision,
    pub qformer: QFormer,
    /// `[3 S, S]`.
    pub pixels: Tensor,
    pub output: VisionOutput,
    pub plan: Plan,
}

/// What answers: the language model, and the session that was used last.
pub(super) struct Speaking {
    pub language: Language,
    session: Option<Session>,
}

/// Where weights come from.
pub(super) struct Home {
    /// As the checkpoint has it: for pictures of the size it was trained with.
    pub config: Config,
    pub files: Arc<TensorFiles>,
    pub placement: Placement,
    pub surveyed: Loaded,
    /// Whether the stages take turns on the device.
    pub offload: bool,
}

impl Home {
    fn loader<'a>(&'a self, device: &'a Device, progress: &'a mut dyn FnMut(u64), seeing: bool) -> Loader<'a> {
        Loader::load(&self.files, device, self.placement, self.surveyed.parts(seeing), progress)
    }

    /// Loads what looks at pictures of `side` pixels.
    pub fn load_seeing(
        &self,
        device: &Device,
        side: Option<u32>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Seeing, LoadReport)> {
        let mut loader = self.loader(device, progress, true);
        let (vision, qformer) = Parts::load_seeing(&mut loader, &self.config)?;
        let report = loader.finish()?.report;
        let mut seeing = Seeing::new(device, vision, qformer, self.config.vision.image_size)?;
        if let Some(side) = side {
            seeing.resize(device, side)?;
        }
        Ok((seeing, report))
    }

    /// Loads what answers.
    pub fn load_speaking(&self, device: &Device, progress: &mut dyn FnMut(u64)) -> Result<(Speaking, LoadReport)> {
        let mut loader = self.loader(device, progress, false);
        let language = Parts::load_language(&mut loader, &self.config)?;
        let report = loader.finish()?.report;
        Ok((Speaking { language, session: None }, report))
    }
}

impl Seeing {
    fn new(device: &Device, vision: Vision, qformer: QFormer, side: u32) -> Result<Seeing> {
        let (pixels, output, plan) = vision_plan(device, &vision, side)?;
        Ok(Seeing { vision, qformer, pixels, output, plan })
    }

    /// Takes pictures of `side` pixels.
    pub fn resize(&mut self, device: &Device, side: u32) -> Result<()> {
        self.vision.interpolate_positions(device, side)?;
        (self.pixels, self.output, self.plan) = vision_plan(device, &self.vision, side)?;
        Ok(())
    }
}

/// The plan of the vision tower, what it reads and what it gives.
fn vision_plan(device: &Device, vision: &Vision, side: u32) -> Result<(Tensor, VisionOutput, Plan)> {
    let pixels = device.zeros(Category::Io, "pixels", 3 * side, side)?;
    let mut r = Recorder::new(device.caps());
    let recorded = vision.record(&mut r, &pixels);
    let plan = r.finish(device)?;
    let output = VisionOutput {
        last_hidden_state: plan.output(&recorded.last_hidden_state),
        pooler_output: plan.output(&recorded.pooler_output),
    };
    Ok((pixels, output, plan))
}

impl InstructBlip {
    /// Has what looks at pictures on the device.
    pub(super) fn see(&mut self) -> Result<()> {
        if self.seeing.is_none() {
            self.speaking = None; // its weights make room
            self.device.trim()?;
            self.seeing = Some(self.home.load_seeing(&self.device, self.side, &mut |_| {})?.0);
        }
        Ok(())
    }

    /// Has what answers on the device, with a session for `rows` answers of `new_tokens` to each of `prompts`.
    pub(super) fn speak(&mut self, prompts: &[u32], rows: u32, new_tokens: u32) -> Result<()> {
        if self.home.offload {
            self.seeing = None; // its weights make room
            self.device.trim()?;
        }
        if self.speaking.is_none() {
            self.speaking = Some(self.home.load_speaking(&self.device, &mut |_| {})?.0);
        }
        let Speaking { language, session } = self.speaking.as_mut().expect("loaded just now");
        let need = Capacity::of(language, prompts, rows, new_tokens);
        if session.as_ref().is_none_or(|s| !s.capacity().holds(&need)) {
            *session = None; // its cache is freed before the larger one is made
            *session = Some(Session::new(&self.device, language, need)?);
        }
        Ok(())
    }
}

impl InstructBlip {
    /// What [`InstructBlip::see`] brought.
    pub(super) fn seeing(&self) -> &Seeing {
        self.seeing.as_ref().expect("see() comes before")
    }

    /// What [`InstructBlip::speak`] brought.
    pub(super) fn speaking(&self) -> (&Language, &Session) {
        let speaking = self.speaking.as_ref().expect("speak() comes before");
        (&speaking.language, speaking.session.as_ref().expect("speak() makes one"))
    }
}

impl Loaded {
    /// What seeing, or what speaking, asked for.
    fn parts(&self, seeing: bool) -> impl Iterator<Item = &str> {
        let wanted = move |part: Part| (part != Part::Language) == seeing;
        self.tensors.iter().filter(move |t| wanted(t.part)).map(|t| t.name.as_str())
    }
}
