//! Pictures as the window shows them: read and shrunk by threads, and kept as textures only while they are seen.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use eframe::egui;
use instructblip::Image;
use instructblip::model::AttentionMaps;
use instructblip::processor::ImageOptions;

use crate::work::Wake;

/// Most textures; those that were not seen for longest go first.
const MOST: usize = 240;

/// Textures that a frame makes at most: more would take too long.
const A_FRAME: usize = 4;

/// A picture to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// A file, no larger than this a side.
    File(PathBuf, u32),
    /// A map of where a model looked, by the number of the look: the instruction, layer, head and query, all of them
    /// where there is none.
    Map(u64, usize, Option<usize>, Option<usize>, Option<usize>),
}

/// The things that a map is drawn from.
pub type Drawn = (Arc<Image>, Arc<AttentionMaps>);

/// A picture in pixels, or why there is none.
type Made = Result<egui::ColorImage, String>;

struct Job {
    shown: Shown,
    drawn: Option<Drawn>,
    options: ImageOptions,
}

/// Jobs that wait; the last one asked for is the first that is done, as it is what is seen now.
#[derive(Default)]
struct Queue {
    jobs: Mutex<(Vec<Job>, bool)>,
    came: Condvar,
}

enum State {
    Waiting,
    Ready(egui::TextureHandle),
    Failed(String),
}

/// The pictures of the window.
pub struct Thumbnails {
    queue: Arc<Queue>,
    made: Receiver<(Shown, Made)>,
    states: HashMap<Shown, (State, u64)>,
    frame: u64,
    options: ImageOptions,
}

impl Thumbnails {
    /// Starts the threads, which call `wake` after every picture.
    ///
    /// # Errors
    /// The system's, if it gives no threads.
    pub fn start(wake: &Wake) -> std::io::Result<Thumbnails> {
        let (to, made) = channel();
        let queue = Arc::new(Queue::default());
        let threads = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 4));
        for i in 0..threads {
            let (queue, to, wake) = (queue.clone(), to.clone(), wake.clone());
            std::thread::Builder::new().name(format!("thumbnails {i}")).spawn(move || work(&queue, &to, &wake))?;
        }
        let options = ImageOptions { exif_rotate: true, ..ImageOptions::default() };
        Ok(Thumbnails { queue, made, states: HashMap::new(), frame: 0, options })
    }

    /// Begins a frame: takes what the threads made, and lets go of what is not seen any more.
    pub fn begin(&mut self, ctx: &egui::Context, options: ImageOptions) {
        self.frame += 1;
        if options != self.options {
            self.options = options;
            self.states.clear();
        }
        for _ in 0..A_FRAME {
            let Ok((shown, made)) = self.made.try_recv() else { break };
            // What was let go of meanwhile is not wanted.
            let Some((state, _)) = self.states.get_mut(&shown) else { continue };
            *state = match made {
                Ok(image) => State::Ready(ctx.load_texture("picture", image, egui::TextureOptions::LINEAR)),
                Err(problem) => State::Failed(problem),
            };
            ctx.request_repaint();
        }
        if self.states.len() > MOST {
            let mut ages: Vec<u64> = self.states.values().map(|(_, seen)| *seen).collect();
            ages.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = ages[MOST];
            self.states.retain(|_, (_, seen)| *seen > oldest);
        }
        self.forget_unseen();
    }

    /// Takes back what was asked for and is not seen any more.
    fn forget_unseen(&mut self) {
        let frame = self.frame;
        let unseen = |(state, seen): &(State, u64)| matches!(state, State::Waiting) && *seen + 2 < frame;
        if !self.states.values().any(unseen) {
            return;
        }
        let gone: HashSet<Shown> =
            self.states.iter().filter(|(_, of)| unseen(of)).map(|(shown, _)| shown.clone()).collect();
        self.states.retain(|shown, _| !gone.contains(shown));
        if let Ok(mut jobs) = self.queue.jobs.lock() {
            jobs.0.retain(|job| !gone.contains(&job.shown));
        }
    }

    /// A file's picture, no larger than `side`: a texture, nothing yet, or why there is none.
    pub fn file(&mut self, path: &Path, side: u32) -> Result<Option<egui::TextureHandle>, String> {
        self.get(Shown::File(path.into(), side), || None)
    }

    /// A map over a picture, as [`Thumbnails::file`].
    pub fn map(&mut self, shown: Shown, drawn: impl FnOnce() -> Drawn) -> Result<Option<egui::TextureHandle>, String> {
        self.get(shown, || Some(drawn()))
    }

    fn get(
        &mut self,
        shown: Shown,
        drawn: impl FnOnce() -> Option<Drawn>,
    ) -> Result<Option<egui::TextureHandle>, String> {
        if let Some((state, seen)) = self.states.get_mut(&shown) {
            *seen = self.frame;
            return match state {
                State::Waiting => Ok(None),
                State::Ready(texture) => Ok(Some(texture.clone())),
                State::Failed(problem) => Err(problem.clone()),
            };
        }
        self.states.insert(shown.clone(), (State::Waiting, self.frame));
        if let Ok(mut jobs) = self.queue.jobs.lock() {
            jobs.0.push(Job { shown, drawn: drawn(), options: self.options });
            self.queue.came.notify_one();
        }
        Ok(None)
    }

    /// The number of pictures that are kept as textures.
    pub fn textures(&self) -> usize {
        self.states.values().filter(|(state, _)| matches!(state, State::Ready(_))).count()
    }
}

impl Drop for Thumbnails {
    fn drop(&mut self) {
        if let Ok(mut jobs) = self.queue.jobs.lock() {
            jobs.1 = true;
            self.queue.came.notify_all();
        }
    }
}

fn work(queue: &Queue, to: &Sender<(Shown, Made)>, wake: &Wake) {
    loop {
        let Ok(mut jobs) = queue.jobs.lock() else { return };
        let job = loop {
            if jobs.1 {
                return;
            }
            match jobs.0.pop() {
                Some(job) => break job,
                None => match queue.came.wait(jobs) {
                    Ok(again) => jobs = again,
                    Err(_) => return,
                },
            }
        };
        drop(jobs);
        let made = make(&job);
        if to.send((job.shown, made)).is_err() {
            return;
        }
        wake();
    }
}

fn make(job: &Job) -> Made {
    let told = |error: instructblip::Error| crate::work::words::words(&error);
    match (&job.shown, &job.drawn) {
        (Shown::File(path, side), _) => {
            let image = Image::open_with(path, &job.options).map_err(told)?;
            Ok(shrunk(&image, *side))
        }
        (Shown::Map(_, _, layer, head, query), Some((image, maps))) => {
            let map = maps.mean(*layer, *head, *query);
            let image = image.overlaid(&map, maps.patches).map_err(told)?;
            Ok(shrunk(&image, u32::MAX))
        }
        (Shown::Map(..), None) => Err("there is nothing to draw".into()),
    }
}

/// A picture no larger than `side`: each pixel is the mean of those that it stands for.
fn shrunk(image: &Image, side: u32) -> egui::ColorImage {
    let (width, height) = (image.width(), image.height());
    let scale = f64::from(side) / f64::from(width.max(height));
    let small = |n: u32| if scale < 1.0 { ((f64::from(n) * scale).round() as u32).max(1) } else { n };
    let (to_width, to_height) = (small(width), small(height));
    let span = |at: u32, to: u32, from: u32| {
        let start = (u64::from(at) * u64::from(from) / u64::from(to)) as u32;
        let end = (u64::from(at + 1) * u64::from(from)).div_ceil(u64::from(to)) as u32;
        start..end.min(from)
    };
    let mut pixels = Vec::with_capacity(to_width as usize * to_height as usize);
    for y in 0..to_height {
        let rows = span(y, to_height, height);
        for x in 0..to_width {
            let columns = span(x, to_width, width);
            let (mut sum, mut count) = ([0u32; 3], 0u32);
            for row in rows.clone() {
                let line = &image.pixels()[(row * width) as usize * 3..];
                for pixel in line[columns.start as usize * 3..columns.end as usize * 3].chunks_exact(3) {
                    sum.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u32::from(value));
                    count += 1;
                }
            }
            let [r, g, b] = sum.map(|sum| (sum / count.max(1)) as u8);
            pixels.push(egui::Color32::from_rgb(r, g, b));
        }
    }
    egui::ColorImage::new([to_width as usize, to_height as usize], pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_shrink_to_means_and_keep_their_shape() {
        let pixels: Vec<u8> = (0..8 * 4).flat_map(|i| [if i % 2 == 0 { 0 } else { 200 }; 3]).collect();
        let image = Image::from_rgb(8, 4, pixels).expect("a picture");
        let small = shrunk(&image, 4);
        assert_eq!(small.size, [4, 2]);
        assert!(small.pixels.iter().all(|pixel| *pixel == egui::Color32::from_rgb(100, 100, 100)));
        assert_eq!(shrunk(&image, 100).size, [8, 4]);
        assert_eq!(shrunk(&Image::from_rgb(900, 1, vec![7; 2700]).expect("a picture"), 9).size, [9, 1]);
    }

    #[test]
    fn only_what_is_seen_is_read_and_faults_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let bad = folder.path().join("bad.png");
        std::fs::write(&bad, "no picture").expect("written");
        let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shapes/samples/00.png");
        let wake: Wake = Arc::new(|| {});
        let mut thumbnails = Thumbnails::start(&wake).expect("threads");
        let ctx = egui::Context::default();
        let (mut is_there, mut told) = (false, String::new());
        for _ in 0..400 {
            let options = thumbnails.options;
            thumbnails.begin(&ctx, options);
            is_there |= matches!(thumbnails.file(&good, 64), Ok(Some(_)));
            told = thumbnails.file(&bad, 64).err().unwrap_or(told);
            if is_there && !told.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(is_there && told.contains("not a picture"), "{told}");
        assert_eq!(thumbnails.textures(), 1);
    }
}
