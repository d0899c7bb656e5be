//! The device's side of generation: caches, the tables that say which page holds which position, prompts into the cache
//! once, and the plan of one decode step over all rows.
//!
//! A page is one position's keys and values. Sequences that share a prompt share its pages, and beams change places by
//! changing a row of the table: no keys are ever copied.

use std::sync::OnceLock;

use super::processors::{CANDIDATES, Processors};
use super::scores::Scores;
use crate::error::Result;
use crate::language::{Cached, KvCache, Language, Memory};
use crate::runtime::ops::attention::Rows;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Caps, Category, Device, Tensor, whole};

/// A prompt on the device: token ids, and image features with the rows they replace.
pub struct PromptInputs<'a> {
    /// `[1, T]` of u32.
    pub ids: &'a Tensor,
    /// `[Q, D]`.
    pub features: &'a Tensor,
    /// `[1, Q]` of u32: the positions of the placeholders.
    pub places: &'a Tensor,
}

/// What a session has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Sequences that are decoded side by side.
    pub rows: u32,
    /// Positions of the longest sequence (of its decoder's part).
    pub positions: u32,
    /// Pages of all sequences together.
    pub pages: u32,
    /// Positions of the longest prompt that an encoder reads; 1 for decoder-only models.
    pub encoded: u32,
    /// Pages of all such prompts together; 1 for decoder-only models.
    pub encoded_pages: u32,
}

/// Room is given in multiples of this, so that requests of similar length share a session.
const ROOM_STEP: u32 = 256;

impl Room {
    /// Room for answers of `new_tokens` tokens in `rows_per_prompt` rows after each of `prompts` (numbers of tokens).
    pub fn of(language: &Language, prompts: &[u32], rows_per_prompt: u32, new_tokens: u32) -> Room {
        let (longest, all) = (prompts.iter().copied().max().unwrap_or(1), prompts.iter().sum::<u32>());
        let count = prompts.len() as u32;
        let rows = count * rows_per_prompt;
        let own: u32 = prompts.iter().map(|&tokens| language.decoder_length(tokens)).sum();
        Room {
            rows,
            positions: language.decoder_length(longest).saturating_add(new_tokens),
            pages: own.saturating_add(rows.saturating_mul(new_tokens)),
            encoded: language.encoder_length(longest).max(1),
            encoded_pages: language.encoder_length(all).max(1),
        }
    }

    /// Whether a request that needs `need` can use this room: rows are those of the plan, the rest may be less.
    pub fn holds(&self, need: &Room) -> bool {
        self.rows == need.rows
            && self.positions >= need.positions
            && self.pages >= need.pages
            && self.encoded >= need.encoded
            && self.encoded_pages >= need.encoded_pages
    }

    /// The room that a session for this has.
    #[must_use]
    pub fn rounded(self, language: &Language) -> Room {
        let up = |n: u32| if n > 1 { n.checked_next_multiple_of(ROOM_STEP).unwrap_or(n) } else { n };
        Room {
            rows: self.rows,
            positions: up(self.positions).min(language.max_positions().unwrap_or(u32::MAX)),
            pages: up(self.pages),
            encoded: up(self.encoded),
            encoded_pages: up(self.encoded_pages),
        }
    }
}

/// A cache and the rows over it.
#[derive(Debug)]
struct Table {
    cache: KvCache,
    rows: Rows,
}

impl Table {
    fn new(device: &Device, language: &Language, rows: u32, positions: u32, pages: u32) -> Result<Table> {
        Ok(Table {
            cache: KvCache::new(device, language.num_layers(), language.heads(), pages)?,
            rows: Rows {
                places: device.zeros(Category::Io, "places", rows, 2)?,
                pages: device.zeros(Category::Io, "pages", rows, positions)?,
            },
        })
    }

    fn cached(&self) -> Cached<'_> {
        Cached { cache: &self.cache, rows: &self.rows }
    }
}

/// Caches and the plan of one decode step over them. Lives with the model and serves one request at a time.
pub struct Session {
    device: Device,
    room: Room,
    own: Table,
    cross: Option<Table>,
    token: Tensor,
    logits: Tensor,
    decode: Plan,
    /// What a step's largest logits are found by, and where they are. Made when an answer is first drawn.
    candidates: OnceLock<(Plan, Tensor)>,
}

/// Where a prompt lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Positions the decoder has read: of the prompt, or T5's start token.
    pub positions: u32,
    /// First of the pages they lie on, one after the other.
    pub page: u32,
    /// Positions the encoder has read.
    pub encoded: u32,
    /// First of their pages.
    pub encoded_page: u32,
}

/// A plan over a prompt, or over tokens that follow one, and the logits it gives.
pub struct Prefill {
    /// The plan, not yet submitted.
    pub plan: Plan,
    /// `[rows, V]`.
    pub logits: Tensor,
    /// The encoder's output `[S, D]`.
    pub encoded: Option<Tensor>,
    step: Step,
}

impl Prefill {
    /// Starts it.
    ///
    /// # Errors
    /// What an earlier submit did to the GPU.
    pub fn submit(&self) -> Result<()> {
        self.plan.write_step(self.step);
        self.plan.submit()
    }
}

/// How to record a prompt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// How many of the last rows' logits are wanted.
    pub rows: u32,
    /// What the decoder of T5 reads; its start token if empty.
    pub decoder_ids: &'a [u32],
    /// Labels of outputs to keep.
    pub taps: &'a [String],
    /// Whether the largest logit's index goes to the session's token, for its first row.
    pub choose: bool,
}

impl Session {
    /// A session with at least this room.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DoesNotFit`](crate::Error::DoesNotFit).
    pub fn new(device: &Device, language: &Language, room: Room) -> Result<Session> {
        let room = room.rounded(language);
        let own = Table::new(device, language, room.rows, room.positions, room.pages)?;
        let table = |_| Table::new(device, language, room.rows, room.encoded, room.encoded_pages);
        let cross = Some(()).filter(|()| language.is_encoder_decoder()).map(table).transpose()?;
        let token = device.zeros(Category::Io, "token", 1, room.rows)?;
        let mut r = Recorder::new(device.caps());
        let memory = Memory { own: own.cached(), cross: cross.as_ref().map(Table::cached) };
        let logits = record_decode(&mut r, language, memory, &token);
        let decode = r.finish(device)?;
        let logits = decode.output(&logits);
        let decode = decode.with_token(&token)?;
        Ok(Session { device: device.clone(), room, own, cross, token, logits, decode, candidates: OnceLock::new() })
    }

    /// What there is room for.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The plan of one decode step, for benchmarks.
    pub fn decode_plan(&self) -> &Plan {
        &self.decode
    }

    /// Where `prompts` (numbers of tokens) lie, one after the other.
    pub fn place(language: &Language, prompts: &[u32]) -> Vec<Placed> {
        let mut next = Placed { positions: 0, page: 0, encoded: 0, encoded_page: 0 };
        let place = |&tokens: &u32| {
            let (positions, encoded) = (language.decoder_length(tokens), language.encoder_length(tokens));
            let here = Placed { positions, encoded, ..next };
            next.page += positions;
            next.encoded_page += encoded;
            here
        };
        prompts.iter().map(place).collect()
    }

    /// Records a prompt whose keys and values go where `placed` says.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn prefill(
        &self,
        language: &Language,
        prompt: &PromptInputs<'_>,
        placed: Placed,
        request: Request<'_>,
    ) -> Result<Prefill> {
        let mut r = Recorder::new(self.device.caps()).with_taps(request.taps);
        let start = language.decoder_start().map(|start| [start]);
        let decoder_ids = match (&start, request.decoder_ids) {
            (None, _) => None,
            (Some(start), []) => Some(self.ids(start)?),
            (Some(_), ids) => Some(self.ids(ids)?),
        };
        let count = decoder_ids.as_ref().unwrap_or(prompt.ids).len();
        let own = Table { cache: self.own.cache.clone(), rows: self.sequence(placed.page, count)? };
        let cross = self.cross.as_ref().map(|_| -> Result<(Rows, Rows)> {
            let store = self.sequence(placed.encoded_page, prompt.ids.len())?;
            let places: Vec<u32> = (0..count).flat_map(|_| [placed.encoded, 0]).collect();
            let places = self.device.tensor(Category::Io, "places", count, 2, &places)?;
            Ok((Rows { places, pages: store.pages.clone() }, store))
        });
        let cross = cross.transpose()?;
        let crossing = self.cross.as_ref().zip(cross.as_ref()).zip(decoder_ids.as_ref());
        let crossing = crossing.map(|((table, (read, store)), decoder_ids)| Crossing {
            read: Cached { cache: &table.cache, rows: read },
            store: Cached { cache: &table.cache, rows: store },
            decoder_ids,
        });
        let (logits, encoded) = record_prefill(&mut r, language, own.cached(), crossing, prompt, request.rows);
        if request.choose {
            r.argmax(&mut self.token.clone(), &logits);
        }
        let plan = r.finish(&self.device)?;
        let (logits, encoded) = (plan.output(&logits), encoded.map(|encoded| plan.output(&encoded)));
        Ok(Prefill { plan, logits, encoded, step: Step::new(0, count) })
    }

    /// Records `ids` after the prompt at `placed`, on the pages from `page` on, with the logits of all of them.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn extend(&self, language: &Language, placed: Placed, page: u32, ids: &[u32]) -> Result<Prefill> {
        let count = ids.len() as u32;
        let mut r = Recorder::new(self.device.caps());
        let pages = pages(placed.page..placed.page + placed.positions, page..page + count);
        let pages = self.device.tensor(Category::Io, "pages", 1, pages.len() as u32, &pages)?;
        let places: Vec<u32> = (0..count).flat_map(|i| [i, 0]).collect();
        let places = self.device.tensor(Category::Io, "places", count, 2, &places)?;
        let own = Rows { places, pages };
        let cross = self.cross.as_ref().map(|table| -> Result<_> {
            let places: Vec<u32> = (0..count).flat_map(|_| [placed.encoded, 0]).collect();
            let places = self.device.tensor(Category::Io, "places", count, 2, &places)?;
            Ok((&table.cache, Rows { places, pages: self.sequence(placed.encoded_page, placed.encoded)?.pages }))
        });
        let cross = cross.transpose()?;
        let memory = Memory {
            own: Cached { cache: &self.own.cache, rows: &own },
            cross: cross.as_ref().map(|(cache, rows)| Cached { cache, rows }),
        };
        let x = language.embed(&mut r, &self.ids(ids)?); // [T, D]
        let logits = language.record(&mut r, memory, x, count); // [T, V]
        let plan = r.finish(&self.device)?;
        let logits = plan.output(&logits);
        Ok(Prefill { plan, logits, encoded: None, step: Step::new(placed.positions, count) })
    }

    /// Sets up the rows: row r continues the prompt at `rows[r]`.
    pub fn continue_from(&self, rows: &[Placed]) -> PageTable {
        let used = rows.iter().map(|placed| placed.page + placed.positions).max().unwrap_or(0);
        let table = PageTable::new(rows, used, self.room.positions);
        let places: Vec<u32> = (0u32..).zip(rows).flat_map(|(r, placed)| [placed.positions, r]).collect();
        self.device.write(&self.own.rows.places, &places);
        self.write_pages(&table);
        if let Some(cross) = &self.cross {
            let places: Vec<u32> = (0u32..).zip(rows).flat_map(|(r, placed)| [placed.encoded, r]).collect();
            let width = cross.rows.pages.cols() as usize;
            let mut pages = vec![0; rows.len() * width];
            for (row, placed) in pages.chunks_mut(width).zip(rows) {
                (placed.encoded_page..).zip(row).take(placed.encoded as usize).for_each(|(page, entry)| *entry = page);
            }
            self.device.write(&cross.rows.places, &places);
            self.device.write(&cross.rows.pages, &pages);
        }
        table
    }

    /// Makes the rows' pages those of `table`.
    pub fn write_pages(&self, table: &PageTable) {
        self.device.write(&self.own.rows.pages, &table.pages);
    }

    /// Starts step `n` of decoding, n tokens after the prompt, with the tokens on the device.
    ///
    /// # Errors
    /// What an earlier submit did to the GPU.
    pub fn submit(&self, n: u32) -> Result<()> {
        self.decode.write_step(Step::new(n, 1));
        self.decode.submit()
    }

    /// Sets the tokens that the next step reads.
    pub fn write_tokens(&self, tokens: &[u32]) {
        self.device.write(&self.token, tokens);
    }

    /// The likeliest tokens after the last step, one for each row.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_tokens(&self) -> Result<Vec<u32>> {
        // Plans keep a readback of their first token; what nobody reads must not pile up.
        self.decode.drain_tokens()?;
        self.device.read(&self.token)
    }

    /// The logits of the last step, `[rows, V]`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_logits(&self) -> Result<Vec<Vec<f32>>> {
        self.decode.drain_tokens()?;
        let width = self.logits.cols() as usize;
        Ok(self.device.read::<f32>(&self.logits)?.chunks(width).map(<[f32]>::to_vec).collect())
    }

    /// What the tokens after the last step are chosen from, by one of `processors` for each row: the few largest logits
    /// where that is enough for all of them, else all.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_scores(&self, processors: &[&Processors]) -> Result<Vec<Scores>> {
        if processors.iter().all(|p| p.draw_among_few()) {
            let (pairs, all) = (self.read_candidates()?, self.logits.cols() as usize);
            let rows = pairs.chunks(pairs.len() / processors.len()).zip(processors);
            let scores: Option<Vec<Scores>> = rows.map(|(pairs, p)| Scores::of_largest(pairs, all, p)).collect();
            if let Some(scores) = scores {
                return Ok(scores);
            }
        }
        Ok(self.read_logits()?.into_iter().map(Scores::of_all).collect())
    }

    /// The largest logits of the last step and their tokens, row by row: of a vocabulary of 32,000 that is 512 bytes a row
    /// instead of 128,000, and as much less for the host to sort. In a plan of its own, so that steps whose tokens are
    /// taken, not drawn, go without.
    fn read_candidates(&self) -> Result<Vec<u32>> {
        self.decode.drain_tokens()?;
        if self.candidates.get().is_none() {
            let mut r = Recorder::new(self.device.caps());
            let found = record_candidates(&mut r, &self.logits);
            let plan = r.finish(&self.device)?;
            let found = plan.output(&found);
            self.candidates.get_or_init(|| (plan, found));
        }
        let (plan, found) = self.candidates.get().expect("made above");
        plan.submit()?;
        self.device.read(found)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn token(&self) -> &Tensor {
        &self.token
    }

    fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        self.device.tensor(Category::Io, "ids", 1, ids.len() as u32, ids)
    }

    /// One sequence of `count` rows in order, on the pages from `page` on.
    fn sequence(&self, page: u32, count: u32) -> Result<Rows> {
        let places: Vec<u32> = (0..count).flat_map(|i| [i, 0]).collect();
        Ok(Rows {
            places: self.device.tensor(Category::Io, "places", count, 2, &places)?,
            pages: self.device.tensor(Category::Io, "pages", 1, count, &pages(page..page + count, 0..0))?,
        })
    }
}

fn pages(prompt: std::ops::Range<u32>, rest: std::ops::Range<u32>) -> Vec<u32> {
    prompt.chain(rest).collect()
}

/// Which page holds each position of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    prompts: Vec<u32>,
    first: u32,
    width: usize,
    pages: Vec<u32>,
}

impl PageTable {
    fn new(rows: &[Placed], first: u32, width: u32) -> PageTable {
        let width = width as usize;
        let mut pages = vec![0; rows.len() * width];
        for (r, (row, placed)) in pages.chunks_mut(width).zip(rows).enumerate() {
            for (position, page) in row.iter_mut().enumerate() {
                let new = (position as u32).checked_sub(placed.positions);
                *page = new.map_or(placed.page + position as u32, |n| first + n * rows.len() as u32 + r as u32);
            }
        }
        PageTable { prompts: rows.iter().map(|p| p.positions).collect(), first, width, pages }
    }

    /// Row r goes on as row `sources[r]` was, `written` tokens after the prompt.
    pub fn reorder(&mut self, sources: &[usize], written: u32) {
        let old = self.pages.clone();
        for (r, &source) in sources.iter().enumerate().filter(|(r, source)| *r != **source) {
            let end = (self.prompts[r] + written) as usize;
            let (from, to) = (source * self.width, r * self.width);
            self.pages[to..to + end].copy_from_slice(&old[from..from + end]);
        }
    }

    /// The first page that no row will use.
    pub fn end(&self, new_tokens: u32) -> u32 {
        self.first + new_tokens * self.prompts.len() as u32
    }
}

/// What a session and a prompt in it would take, without a device.
pub struct DrySession {
    /// The step of all rows.
    pub decode: Recorder,
    /// The prompt.
    pub prefill: Recorder,
    /// Bytes of the caches.
    pub kv_bytes: u64,
    /// Bytes of tables, tokens and the plans' own buffers.
    pub io_bytes: u64,
}

impl DrySession {
    /// Of a session with `room` and a prompt of `tokens` tokens, `features` of which are a picture's.
    pub fn new(caps: Caps, language: &Language, room: Room, tokens: u32, features: u32) -> DrySession {
        let room = room.rounded(language);
        let (layers, heads, t5) = (language.num_layers(), language.heads(), language.is_encoder_decoder());
        let cache = |pages| KvCache::unbacked(layers, heads, pages);
        let (own, cross) = (cache(room.pages), cache(room.encoded_pages));
        let rows = |places, sequences, positions| Rows {
            places: Tensor::unbacked(places, 2),
            pages: Tensor::unbacked(sequences, positions),
        };
        let (decoded, crossed) = (rows(room.rows, room.rows, room.positions), rows(room.rows, room.rows, room.encoded));
        let mut decode = Recorder::new(caps);
        let cross_memory = Cached { cache: &cross, rows: &crossed };
        let memory = Memory { own: Cached { cache: &own, rows: &decoded }, cross: Some(cross_memory).filter(|_| t5) };
        record_decode(&mut decode, language, memory, &Tensor::unbacked(1, room.rows));
        let mut prefill = Recorder::new(caps);
        let own_tokens = if t5 { 1 } else { tokens };
        let (prompt, read, store) = (rows(own_tokens, 1, own_tokens), rows(1, 1, tokens), rows(tokens, 1, tokens));
        let crossing = Crossing {
            read: Cached { cache: &cross, rows: &read },
            store: Cached { cache: &cross, rows: &store },
            decoder_ids: &Tensor::unbacked(1, 1),
        };
        let inputs = PromptInputs {
            ids: &Tensor::unbacked(1, tokens),
            features: &Tensor::unbacked(features, language.width()),
            places: &Tensor::unbacked(1, features),
        };
        let prompt_rows = Cached { cache: &own, rows: &prompt };
        record_prefill(&mut prefill, language, prompt_rows, Some(crossing).filter(|_| t5), &inputs, 1);
        let mut kv_bytes = KvCache::bytes(layers, heads, room.pages);
        let mut tables = vec![&decoded, &prompt];
        if t5 {
            kv_bytes += KvCache::bytes(layers, heads, room.encoded_pages);
            tables.extend([&crossed, &read, &store]);
        }
        let table_bytes: u64 = tables.iter().map(|r| r.places.buffer_bytes() + r.pages.buffer_bytes()).sum();
        let mut drawn = Recorder::new(caps);
        record_candidates(&mut drawn, &Tensor::unbacked(room.rows, language.head_rows()));
        let plans: u64 = [&decode, &prefill, &drawn].map(Recorder::io_bytes).into_iter().sum();
        let io_bytes = table_bytes + whole(4 * u64::from(room.rows)) + plans + drawn.scratch().1;
        DrySession { decode, prefill, kv_bytes, io_bytes }
    }
}

/// What a prompt of an encoder and decoder needs besides.
#[derive(Clone, Copy)]
pub struct Crossing<'a> {
    /// The encoder's keys and values as the decoder's rows read them.
    pub read: Cached<'a>,
    /// The same as they are stored.
    pub store: Cached<'a>,
    /// `[1, T]`: what the decoder reads first.
    pub decoder_ids: &'a Tensor,
}

/// Records the prompt: embeddings, image features in their places, the encoder if there is one, all blocks, the logits
/// of the last `rows` rows; also gives the encoder's output.
pub fn record_prefill(
    r: &mut Recorder,
    language: &Language,
    own: Cached<'_>,
    crossing: Option<Crossing<'_>>,
    prompt: &PromptInputs<'_>,
    rows: u32,
) -> (Tensor, Option<Tensor>) {
    let mut x = language.embed(r, prompt.ids); // [T, D]
    r.put_rows(&mut x, prompt.features, prompt.places);
    let Some(crossing) = crossing else {
        return (language.record(r, Memory { own, cross: None }, x, rows), None);
    };
    let encoded = language.record_encoder(r, x, crossing.store); // [S, D]
    let x = language.embed(r, crossing.decoder_ids); // [T, D]
    (language.record(r, Memory { own, cross: Some(crossing.read) }, x, rows), Some(encoded))
}

/// Records one decode step of every row: embeddings through all blocks to logits `[rows, V]`, and the likeliest next
/// tokens into the place of the last.
pub fn record_decode(r: &mut Recorder, language: &Language, memory: Memory<'_>, token: &Tensor) -> Tensor {
    let x = language.embed(r, token); // [R, D]
    let logits = language.record(r, memory, x, token.len()); // [R, V]
    r.argmax(&mut token.clone(), &logits);
    logits
}

/// Records the search for the largest of a step's logits `[rows, V]`.
fn record_candidates(r: &mut Recorder, logits: &Tensor) -> Tensor {
    r.top_k(logits, CANDIDATES.min(logits.cols()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beams_share_the_prompt_and_change_places_without_copies() {
        let prompt = Placed { positions: 3, page: 10, encoded: 0, encoded_page: 0 };
        let mut table = PageTable::new(&[prompt, prompt], 13, 6);
        assert_eq!(table.pages, [10, 11, 12, 13, 15, 17, 10, 11, 12, 14, 16, 18]);
        assert_eq!(table.end(3), 19);
        table.reorder(&[1, 1], 2);
        assert_eq!(table.pages, [10, 11, 12, 14, 16, 17, 10, 11, 12, 14, 16, 18]);
        table.reorder(&[1, 0], 3);
        assert_eq!(table.pages, [10, 11, 12, 14, 16, 18, 10, 11, 12, 14, 16, 17]);
    }
}
