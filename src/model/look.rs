//! The stage that looks: pictures through the vision tower and instructions through the Q-Former, several in one pass.
//!
//! The features of a picture and of an instruction have the same bits, whatever others are in the pass.

use std::collections::BTreeMap;
use std::time::Instant;

use super::reply::milliseconds;
use crate::config::VisionConfig;
use crate::error::{Error, Result};
use crate::processor::Prompt;
use crate::qformer::{Instructions, QFormer, QFormerOutput};
use crate::runtime::ops::attention::{Mask, Segment, Segments};
use crate::runtime::plan::Plan;
use crate::runtime::recorder::Recorder;
use crate::runtime::{Caps, Category, Device, Tensor};
use crate::vision::Vision;

/// The most of `wanted` pictures that can be in one pass: what a layer makes of all of them is one binding.
pub(super) fn at_once(config: &VisionConfig, caps: &Caps, wanted: u32) -> u32 {
    let widest = config.intermediate_size.max(3 * config.hidden_size);
    let each = 4 * u64::from(config.num_positions()) * u64::from(widest);
    (caps.max_binding_bytes / each).clamp(1, wanted.max(1).into()) as u32
}

/// The vision tower and the Q-Former with their plans, and the pictures seen last.
pub(super) struct VisionStage {
    pub vision: Vision,
    qformer: QFormer,
    device: Device,
    side: u32,
    /// Most pictures, and instructions, of a pass.
    at_once: u32,
    /// Passes by their number of pictures, 1, 2, 4, ...; each is made when it is first needed.
    towers: BTreeMap<usize, TowerPass>,
    reading: Option<ReadingPass>,
    /// The pictures seen last: questions about one often follow each other.
    seen: Vec<Seen>,
    /// Turns at giving a place of `seen` to another picture.
    turn: usize,
    /// `[at_once N, D]`: the pictures that a pass of the Q-Former reads, where it may be several.
    gathered: Option<Tensor>,
}

/// The vision tower over some pictures.
struct TowerPass {
    /// `[3 B S, S]`.
    pixels: Tensor,
    /// `[B N, D]`.
    output: Tensor,
    plan: Plan,
}

/// A picture that was looked at. It has no pixels while there is no picture.
struct Seen {
    pixels: Vec<f32>,
    /// `[N, D]`.
    features: Tensor,
}

/// Everything that the recording of a pass of the Q-Former depends on.
#[derive(PartialEq)]
struct Key {
    /// Words of each instruction.
    lengths: Vec<u32>,
    pictures: u32,
    masked: bool,
    taps: Vec<String>,
}

/// The Q-Former over some instructions.
struct ReadingPass {
    key: Key,
    ids: Option<Tensor>,
    mask: Option<Tensor>,
    /// The rows that see each other, and the pictures that they see.
    segments: [Segments; 2],
    output: QFormerOutput,
    plan: Plan,
}

/// One instruction and the picture that it is about.
pub(super) struct Look<'a> {
    /// `[3, S, S]`.
    pub pixels: &'a [f32],
    pub prompt: &'a Prompt,
}

/// Outputs that were asked for by label.
pub(super) type Tapped = Vec<(String, Tensor)>;

/// The outputs of a pass, which hold until the next one.
pub(super) struct Looked {
    /// `[P N, D]`: the pictures.
    image: Tensor,
    /// The number of each instruction's picture.
    pictures: Vec<u32>,
    /// The outputs of the Q-Former.
    pub qformer: QFormerOutput,
    /// The outputs that were asked for by label.
    pub taps: Tapped,
    /// Milliseconds that vision tower and Q-Former took.
    pub ms: [f64; 2],
}

impl Looked {
    /// The features `[N, D]` of the picture of instruction `i`.
    pub fn image(&self, i: usize) -> Tensor {
        let n = self.image.rows() / (1 + self.pictures.iter().max().copied().unwrap_or(0));
        self.image.slice_rows(self.pictures[i] * n, n)
    }

    /// The query rows `[Q, D]` of instruction `i`.
    pub fn queries(&self, i: usize) -> Tensor {
        self.of(&self.qformer.last_hidden_state, i)
    }

    /// The query rows `[Q, H]` of instruction `i` in the language model's width.
    pub fn projected(&self, i: usize) -> Tensor {
        self.of(&self.qformer.language_model_inputs, i)
    }

    /// Instructions of the pass.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Reads the features of each instruction, `[Q, H]` in the language model's width; [`Error::NotFinite`] where they are no
    /// numbers.
    pub fn features(&self, device: &Device) -> Result<Vec<Result<Vec<f32>>>> {
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let projected = device.read::<f32>(&self.qformer.language_model_inputs)?;
        let checked = |(i, rows): (usize, &[f32])| -> Result<Result<Vec<f32>>> {
            if finite(rows) {
                return Ok(Ok(rows.to_vec()));
            }
            let seen = finite(&device.read::<f32>(&self.image(i))?);
            Ok(Err(Error::NotFinite { stage: if seen { "Q-Former" } else { "vision tower" } }))
        };
        projected.chunks(projected.len() / self.len()).enumerate().map(checked).collect()
    }

    fn of(&self, tensor: &Tensor, i: usize) -> Tensor {
        let q = self.qformer.language_model_inputs.rows() / self.pictures.len() as u32;
        tensor.slice_rows(i as u32 * q, q)
    }
}

impl VisionStage {
    pub fn new(device: &Device, vision: Vision, qformer: QFormer, side: u32, at_once: u32) -> Result<VisionStage> {
        let mut stage = VisionStage {
            vision,
            qformer,
            device: device.clone(),
            side,
            at_once,
            towers: BTreeMap::new(),
            reading: None,
            seen: Vec::new(),
            turn: 0,
            gathered: None,
        };
        stage.make()?;
        Ok(stage)
    }

    /// Makes the stage one for pictures of `side` pixels.
    pub fn resize(&mut self, side: u32) -> Result<()> {
        self.vision.interpolate_positions(&self.device, side)?;
        self.side = side;
        self.make()
    }

    /// Makes the stage one for passes over so many pictures at most.
    pub fn look_at_once(&mut self, pictures: u32) -> Result<()> {
        if pictures != self.at_once {
            self.at_once = pictures;
            self.make()?;
        }
        Ok(())
    }

    /// The pass over one picture, and memory for those that are seen.
    fn make(&mut self) -> Result<()> {
        (self.towers, self.reading, self.gathered) = (BTreeMap::new(), None, None);
        self.seen.clear();
        let tower = TowerPass::new(&self.device, &self.vision, self.side, 1)?;
        let (n, d) = (tower.output.rows(), tower.output.cols());
        let unseen = |features| Seen { pixels: Vec::new(), features };
        if self.at_once == 1 {
            self.seen.push(unseen(tower.output.clone()));
        } else {
            for _ in 0..self.at_once {
                self.seen.push(unseen(self.device.zeros(Category::Io, "features of a picture", n, d)?));
            }
            self.gathered = Some(self.device.zeros(Category::Io, "features of pictures", self.at_once * n, d)?);
        }
        self.towers.insert(1, tower);
        Ok(())
    }

    /// Most pictures, and instructions, of a pass.
    pub fn at_once(&self) -> usize {
        self.at_once as usize
    }

    /// Takes pictures and instructions, at most [`VisionStage::at_once`], through vision tower and Q-Former, and waits for
    /// their outputs. With `taps` the Q-Former's outputs of these labels are kept; there must be one instruction then, and
    /// so there must where words are hidden.
    pub fn look(&mut self, looks: &[Look<'_>], taps: &[String]) -> Result<Looked> {
        let started = Instant::now();
        let (image, pictures) = self.see(looks)?;
        let seen = self.device.mark();
        // Recorded while the vision tower runs, and submitted before it is waited for.
        let reading = self.reading_pass(looks, &image, &pictures, taps)?;
        reading.plan.submit()?;
        let (qformer, taps) = (reading.output.clone(), reading.plan.taps().to_vec());
        self.device.wait_to(seen)?;
        let vision = milliseconds(started);
        self.device.wait()?;
        Ok(Looked { image, pictures, qformer, taps, ms: [vision, milliseconds(started) - vision] })
    }

    /// Finds the features of pictures, `[P N, D]` of the P that differ, and of each picture its number among these. Those
    /// that were not seen just before go through the vision tower.
    fn see(&mut self, looks: &[Look<'_>]) -> Result<(Tensor, Vec<u32>)> {
        let mut different: Vec<&[f32]> = Vec::new();
        let mut numbers = Vec::new();
        for Look { pixels, .. } in looks {
            let known = different.iter().position(|known| known == pixels);
            numbers.push(known.unwrap_or(different.len()) as u32);
            if known.is_none() {
                different.push(pixels);
            }
        }
        let mut places: Vec<Option<usize>> =
            different.iter().map(|pixels| self.seen.iter().position(|seen| seen.pixels == **pixels)).collect();
        let mut unseen = Vec::new();
        for i in 0..places.len() {
            if places[i].is_none() {
                // The next place in turn that this pass does not need.
                while places.contains(&Some(self.turn % self.seen.len())) {
                    self.turn += 1;
                }
                places[i] = Some(self.turn % self.seen.len());
                unseen.push((different[i], self.turn % self.seen.len()));
            }
        }
        self.look_at(&unseen)?;
        let Some(gathered) = &self.gathered else { return Ok((self.seen[0].features.clone(), numbers)) };
        for (i, place) in (0..).zip(places.iter().flatten()) {
            let features = &self.seen[*place].features;
            self.device.copy(features, &gathered.slice_rows(i * features.rows(), features.rows()))?;
        }
        let rows = gathered.rows() / self.at_once * different.len() as u32;
        Ok((gathered.slice_rows(0, rows), numbers))
    }

    /// Takes pictures through the vision tower to their places among those seen.
    fn look_at(&mut self, pictures: &[(&[f32], usize)]) -> Result<()> {
        let mut rest = pictures;
        while !rest.is_empty() {
            let count = 1 << rest.len().ilog2();
            let (these, others) = rest.split_at(count);
            these.iter().for_each(|&(_, place)| self.seen[place].pixels.clear());
            let device = self.device.clone();
            let tower = self.tower(count)?;
            let (output, rows) = (tower.output.clone(), tower.pixels.rows() / count as u32);
            for (i, (pixels, _)) in (0..).zip(these) {
                device.write(&tower.pixels.slice_rows(i * rows, rows), pixels);
            }
            tower.plan.submit()?;
            for (i, &(pixels, place)) in (0..).zip(these) {
                let seen = &mut self.seen[place];
                if self.at_once > 1 {
                    let n = seen.features.rows();
                    device.copy(&output.slice_rows(i * n, n), &seen.features)?;
                }
                seen.pixels.extend_from_slice(pixels);
            }
            rest = others;
        }
        Ok(())
    }

    /// The pass over `count` pictures, a power of two.
    fn tower(&mut self, count: usize) -> Result<&TowerPass> {
        if !self.towers.contains_key(&count) {
            let tower = TowerPass::new(&self.device, &self.vision, self.side, count as u32)?;
            self.towers.insert(count, tower);
        }
        Ok(&self.towers[&count])
    }

    /// The pass over these instructions: the last one where it was recorded for as many, as long ones.
    fn reading_pass(
        &mut self,
        looks: &[Look<'_>],
        image: &Tensor,
        pictures: &[u32],
        taps: &[String],
    ) -> Result<&ReadingPass> {
        let count = 1 + pictures.iter().max().copied().unwrap_or(0);
        let key = Key {
            lengths: looks.iter().map(|look| look.prompt.qformer_input_ids.len() as u32).collect(),
            pictures: count,
            masked: looks.iter().any(|look| look.prompt.qformer_attention_mask.contains(&0)),
            taps: taps.to_vec(),
        };
        let segments = self.qformer.segments(&key.lengths, pictures, image.rows() / count);
        if self.reading.as_ref().is_none_or(|pass| pass.key != key) {
            self.reading = None; // its memory serves the next
            self.reading = Some(ReadingPass::new(&self.device, &self.qformer, image, key, &segments)?);
        }
        let pass = self.reading.as_ref().expect("made just now");
        let write = |tensor: &Option<Tensor>, values: Vec<u32>| {
            tensor.iter().for_each(|tensor| self.device.write(tensor, &values));
        };
        write(&pass.ids, looks.iter().flat_map(|look| look.prompt.qformer_input_ids.clone()).collect());
        let words = looks.iter().flat_map(|look| look.prompt.qformer_attention_mask.clone());
        write(&pass.mask, vec![1; self.qformer.queries() as usize].into_iter().chain(words).collect());
        for (known, segments) in pass.segments.iter().zip(&segments) {
            known.table().iter().for_each(|table| self.device.write(table, &Segments::numbers(segments)));
        }
        Ok(pass)
    }

    /// Runs the vision tower once more over a picture, with its outputs of the labels `taps`: the plans that stay have none.
    pub fn tap(&mut self, pixels: &[f32], taps: &[String]) -> Result<Tapped> {
        if taps.is_empty() {
            return Ok(Vec::new());
        }
        let input = &self.towers[&1].pixels;
        let mut r = Recorder::new(self.device.caps()).with_taps(taps);
        let features = self.vision.record(&mut r, input, Mask::None);
        self.vision.record_pooler(&mut r, &features);
        let plan = r.finish(&self.device)?;
        self.device.write(input, pixels);
        plan.submit()?;
        Ok(plan.taps().to_vec())
    }

    /// The pooler's output `[1, D]`, as the reference calls it, of a picture's features.
    pub fn pool(&self, features: &Tensor) -> Result<Tensor> {
        let mut r = Recorder::new(self.device.caps());
        let pooled = self.vision.record_pooler(&mut r, features);
        let plan = r.finish(&self.device)?;
        plan.submit()?;
        Ok(plan.output(&pooled))
    }
}

/// Segments with their table on the device.
fn on_device(device: &Device, segments: &[Segment]) -> Result<Segments> {
    Segments::new(segments, |numbers| device.tensor(Category::Io, "segments", 1, numbers.len() as u32, numbers))
}

impl TowerPass {
    fn new(device: &Device, vision: &Vision, side: u32, count: u32) -> Result<TowerPass> {
        let pixels = device.zeros(Category::Io, "pixels", 3 * side * count, side)?;
        let segments = on_device(device, &vision.segments(count))?;
        let mut r = Recorder::new(device.caps());
        let recorded = vision.record(&mut r, &pixels, segments.as_mask());
        let plan = r.finish(device)?;
        Ok(TowerPass { pixels, output: plan.output(&recorded), plan })
    }
}

impl ReadingPass {
    fn new(
        device: &Device,
        qformer: &QFormer,
        image: &Tensor,
        key: Key,
        segments: &[Vec<Segment>; 2],
    ) -> Result<ReadingPass> {
        let tensor = |label, length: u32| device.zeros(Category::Io, label, 1, length);
        let words = key.lengths.iter().sum();
        let ids = if words > 0 { Some(tensor("qformer_input_ids", words)?) } else { None };
        let mask = match key.masked {
            true => Some(tensor("qformer_attention_mask", qformer.queries() + words)?),
            false => None,
        };
        let [own, seen] = segments;
        let segments = [on_device(device, own)?, on_device(device, seen)?];
        assert!(mask.is_none() || key.lengths.len() == 1, "hidden words are for one instruction");
        let [own, seen] = segments.each_ref().map(Segments::as_mask);
        let own = mask.as_ref().map_or(own, Mask::Keys);
        let patches = image.rows() / key.pictures;
        let instructions = Instructions { lengths: &key.lengths, ids: ids.as_ref(), own, seen, patches };
        let mut r = Recorder::new(device.caps()).with_taps(&key.taps);
        let recorded = qformer.record(&mut r, image, &instructions);
        let plan = r.finish(device)?;
        let output = QFormerOutput {
            last_hidden_state: plan.output(&recorded.last_hidden_state),
            language_model_inputs: plan.output(&recorded.language_model_inputs),
        };
        Ok(ReadingPass { key, ids, mask, segments, output, plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::Shape;

    #[test]
    fn a_pass_takes_as_many_pictures_as_a_binding_holds() {
        let mut config = Shape::named("vicuna-7b").expect("a published shape").config().vision;
        let most = |config: &VisionConfig, wanted| at_once(config, &Caps::PORTABLE, wanted);
        assert_eq!([0, 1, 8, 1000].map(|wanted| most(&config, wanted)), [1, 1, 8, 21]);
        config.image_size = 448;
        assert_eq!(most(&config, 8), 5);
        config.image_size = 127 * 14;
        assert_eq!(most(&config, 8), 1);
    }
}
