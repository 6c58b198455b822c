//! Drawing on a GPU: one launch for all slots, which keeps their histories too.

use serpens_core::cuda::{DevicePtr, KernelParams, Properties, Source, kernel, properties};
use serpens_core::{DType, Device, Error, Result, Tensor, View, ViewMut, kernel_params};

use super::cpu::{FEW, FIXED, Law, MORE, biases};
use super::{Broken, History, SampleOptions, WINDOW};
use crate::check;
use crate::simd::EXP2;

const OP: &str = "sampling";

/// Tokens of the largest vocabulary.
pub const MOST_TOKENS: usize = 1 << 18;
/// Logits that a warp looks at together.
const SEGMENT: usize = 128;
/// Bytes of shared memory of a block, without a bit for each token.
const SHARED: usize = 28 * (MOST_TOKENS / SEGMENT) + 360;

static SOURCE: Source = Source::new("sampling", include_str!("kernel.cu"))
    .params(&[Slot::declare, SampleParams::declare])
    .may_spill(|program| program.number("CLUSTER") > Some(1)) // two registers, outside of loops
    .constants(&[
        ("MOST_TOKENS", MOST_TOKENS as i32),
        ("SEGMENT", SEGMENT as i32),
        ("SHARED", SHARED as i32),
        ("WINDOW", WINDOW as i32),
        ("FIXED", FIXED as i32),
        ("FEW", FEW as i32),
        ("MORE", MORE as i32),
        ("BROKEN_NAN", Broken::CODES[0].0 as i32),
        ("BROKEN_NOT_FINITE", Broken::CODES[1].0 as i32),
        ("EXP2_0", EXP2[0].to_bits() as i32),
        ("EXP2_1", EXP2[1].to_bits() as i32),
        ("EXP2_2", EXP2[2].to_bits() as i32),
        ("EXP2_3", EXP2[3].to_bits() as i32),
        ("EXP2_4", EXP2[4].to_bits() as i32),
        ("EXP2_5", EXP2[5].to_bits() as i32),
        ("EXP2_6", EXP2[6].to_bits() as i32),
    ]);
/// By itself, as drawing takes the compiler seconds.
static ENTER: Source =
    Source::new("sampling_enter", include_str!("enter.cu")).params(&[EnterParams::declare]);

kernel_params! {
    /// What a slot's sequence is drawn by, and its history, which the kernel goes on with.
    struct Slot {
        nucleus: u64,
        drawn: u64, // place in the random stream
        bias: DevicePtr as "const float*", // (vocabulary), or null
        counts: DevicePtr as "u32*", // (vocabulary), of tokens that were drawn, or null
        scale: f32,
        rest: f32,
        lowest: f32,
        repetition: f32,
        presence: f32,
        frequency: f32,
        floor: f32, // least weight that can be drawn
        top_k: u32,
        greedy: u32,
        active: u32,
        place: u32, // of the next token in `recent`
        key: [u32; 8],
        recent: [u32; WINDOW],
    }

    struct SampleParams {
        logits: DevicePtr as "const IO*", // (rows, vocabulary)
        stride: i64,
        slots: DevicePtr as "struct Slot*", // (slots)
        tokens: DevicePtr as "u32*", // (rows)
        vocabulary: i32,
    }

    struct EnterParams {
        slots: DevicePtr as "struct Slot*",
        slot: i64,
        record: Slot,
    }
}

/// Draws the tokens of many sequences on a GPU, each in a slot with its own options, history and random stream.
/// Histories are kept there: nothing goes to the device or comes from it between draws, and the memory that a draw
/// works with is the same as long as this lives, so that a recorded one stays valid while sequences come and go.
pub struct DeviceSampler {
    device: Device,
    vocabulary: usize,
    /// (slots, words of a [`Slot`])
    slots: Tensor,
    /// What slots point to: biases and counts.
    tables: Vec<[Option<Tensor>; 2]>,
}

impl DeviceSampler {
    /// A sampler with this many slots, all of them empty.
    ///
    /// # Errors
    /// [`Error::Range`] for a vocabulary of more than [`MOST_TOKENS`]; the processor, which draws with
    /// [`cpu::Sampler`](super::cpu::Sampler); memory.
    pub fn new(slots: usize, vocabulary: usize, device: Device) -> Result<Self> {
        check::range(OP, "the vocabulary", 1..MOST_TOKENS + 1, vocabulary)?;
        properties(device)?;
        let words = size_of::<Slot>() / size_of::<u32>();
        Ok(Self {
            device,
            vocabulary,
            slots: Tensor::zeros([slots, words], DType::U32, device)?,
            tables: vec![[None, None]; slots],
        })
    }

    /// A sequence comes into a slot: what is queued from now on draws by these options, after this history, with the
    /// numbers of the stream of `ChaCha8Rng` with this key (its `get_seed`), of which `drawn` were taken.
    ///
    /// # Errors
    /// [`Error::Range`] for a slot that is not there; options outside their ranges; memory.
    pub fn enter(
        &mut self,
        slot: usize,
        options: &SampleOptions,
        history: &History,
        key: [u8; 32],
        drawn: u64,
    ) -> Result<()> {
        options.check().map_err(|error| Error::inside(OP, error))?;
        check::range(OP, "the slot", 0..self.tables.len(), slot)?;
        let biases = biases(options);
        let bias = self.table(!biases.is_empty(), 0.0, biases)?;
        let counts = self.table(options.counts(), 0, history.drawn())?;
        let address = |table: &Option<Tensor>| {
            let view = table.as_ref().map(Tensor::view);
            view.map_or(DevicePtr::NULL, |view| view.ptr())
        };
        let mut recent = [u32::MAX; WINDOW];
        let mut place = 0;
        for token in history.recent() {
            recent[place % WINDOW] = token;
            place += 1;
        }
        let law = Law::new(options);
        let record = Slot {
            nucleus: law.nucleus,
            drawn,
            bias: address(&bias),
            counts: address(&counts),
            scale: law.scale[0],
            rest: law.scale[1],
            lowest: law.lowest,
            repetition: options.repetition_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            floor: law.floor,
            top_k: u32::try_from(options.top_k).unwrap_or(0),
            greedy: u32::from(options.temperature == 0.0),
            active: 1,
            place: (place % WINDOW) as u32,
            key: std::array::from_fn(|i| {
                u32::from_le_bytes(std::array::from_fn(|byte| key[4 * i + byte]))
            }),
            recent,
        };
        self.write(slot, record)?;
        self.tables[slot] = [bias, counts];
        Ok(())
    }

    /// A slot is empty from now on: it draws token 0, whatever its logits.
    ///
    /// # Errors
    /// [`Error::Range`] for a slot that is not there.
    pub fn leave(&mut self, slot: usize) -> Result<()> {
        check::range(OP, "the slot", 0..self.tables.len(), slot)?;
        // SAFETY: zeros are numbers and null addresses.
        self.write(slot, unsafe { std::mem::zeroed() })?;
        self.tables[slot] = [None, None];
        Ok(())
    }

    /// Queues the next draw of the first slots, as many as there are rows. Where a slot's logits are broken, its token
    /// is one that [`token`](super::token) tells apart, and its history stays as it is.
    ///
    /// # Shapes
    /// logits (rows, vocabulary) of f32 or bf16; tokens (rows) of u32
    ///
    /// # Errors
    /// Shapes, types and devices that do not fit.
    pub fn sample(&mut self, logits: View<'_>, tokens: ViewMut<'_>) -> Result<()> {
        let (device, rows) = (self.device, logits.rows());
        check::float(OP, "logits", logits.dtype())?;
        check::range(OP, "the number of rows", 0..self.tables.len() + 1, rows)?;
        check::count(OP, "columns of logits", self.vocabulary, logits.cols())?;
        check::count(OP, "places for tokens", rows, tokens.rows() * tokens.cols())?;
        let dtype = logits.dtype();
        let params = SampleParams {
            logits: check::address(OP, "logits", &logits, dtype, device)?,
            stride: logits.stride() as i64,
            slots: self.slots.view_mut()?.ptr(),
            tokens: check::address(OP, "tokens", &tokens.as_view(), DType::U32, device)?,
            vocabulary: self.vocabulary as i32,
        };
        let shared = SHARED + self.vocabulary.div_ceil(32) * size_of::<u32>();
        let blocks = blocks_of_slot(rows, properties(device)?);
        let cluster = blocks.to_string();
        let defines = [("IO", dtype.cuda_name()), ("CLUSTER", &cluster)];
        let kernel = kernel(device, &SOURCE, "sampling_draw", &defines)?;
        let grid = [rows as u32 * blocks, 1, 1];
        // SAFETY: the parameters are the kernel's, of operands that were checked; tables that slots point to have a
        // place for each token and are kept as long; the shared memory is what it works with.
        unsafe { kernel.launch(grid, 1024, shared as u32, &params) }
    }

    /// Values of some tokens and others of all the rest, where they are asked for.
    fn table<T: serpens_core::Element>(
        &self,
        asked: bool,
        rest: T,
        values: impl IntoIterator<Item = (u32, T)>,
    ) -> Result<Option<Tensor>> {
        if !asked {
            return Ok(None);
        }
        let mut table = vec![rest; self.vocabulary];
        for (token, value) in values {
            if let Some(place) = table.get_mut(token as usize) {
                *place = value;
            }
        }
        Tensor::from_slice([self.vocabulary], &table, self.device).map(Some)
    }

    fn write(&mut self, slot: usize, record: Slot) -> Result<()> {
        let params = EnterParams {
            slots: self.slots.view_mut()?.ptr(),
            slot: slot as i64,
            record,
        };
        let kernel = kernel(self.device, &ENTER, "sampling_enter", &[])?;
        // SAFETY: the parameters are the kernel's; there is such a slot.
        unsafe { kernel.launch([1, 1, 1], 128, 0, &params) }
    }
}

/// Blocks that share a slot: as many as leave none of them waiting, where the card has clusters.
fn blocks_of_slot(rows: usize, card: &Properties) -> u32 {
    let fits = |blocks: &u32| rows * *blocks as usize <= card.multiprocessors as usize;
    let most = [8, 4, 2].into_iter().find(fits);
    most.filter(|_| card.capability.0 >= 9).unwrap_or(1)
}
