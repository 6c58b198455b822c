//! AdamW on a GPU: all parameters in one launch, after one that sums the squares of their gradients and one that makes the norm
//! and the clipping factor of the sums. Nothing comes to the host, and a [`serpens_core::cuda::Graph`] can hold the step:
//!
//! ```text
//! let mut optimizer = FusedAdamW::new(device, beta1, beta2, eps)?;
//! unsafe { optimizer.set_segments(&segments)? };      // every step; uploads only what changed
//! let scalars: Tensor = …;                            // 4 × f32 on the device, from Scalars { … }.values(…), every step
//! optimizer.step(&scalars)?;
//! optimizer.outcome()                                 // 2 × f32 on the device: the norm, and the factor on the gradients
//! ```

use serpens_core::cuda::{DevicePtr, Source, Variant, kernel};
use serpens_core::{DType, Device, Error, Result, Tensor};

use crate::check;

const OP: &str = "adamw";

static SOURCE: Source = Source::new("adamw", include_str!("kernel.cu"));

/// Threads of a block.
const THREADS: u32 = 256;
/// Values of a task, as in the kernels.
const CHUNK: usize = 8192;
/// Values of one access: parameters start at a multiple of so many.
const VECTOR: u64 = 4;

/// One parameter and what belongs to it: `len` f32 values each, and the parameter's bf16 shadow where it has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// The parameter.
    pub value: DevicePtr,
    /// Its gradient.
    pub gradient: DevicePtr,
    /// Its first moment.
    pub first: DevicePtr,
    /// Its second moment.
    pub second: DevicePtr,
    /// Its value in bf16, written after every step; [`DevicePtr::NULL`] for none.
    pub shadow: DevicePtr,
    /// Number of values.
    pub len: u64,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// The largest learning rate it takes.
    pub max_lr: f32,
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug)]
pub struct Scalars {
    /// Learning rate.
    pub lr: f32,
    /// t, from 1.
    pub step: u64,
    /// The norm that gradients are scaled down to; 0 for no limit.
    pub clip: f32,
}

/// The optimiser's tables on the device.
pub struct FusedAdamW {
    device: Device,
    betas: [f32; 2],
    eps: f32,
    segments: Vec<Segment>,
    tables: Option<Tables>,
    outcome: Tensor,
}

struct Tables {
    segments: Tensor,
    /// (segment, chunk) of each block.
    tasks: Tensor,
    /// Sum of squares of each task, an f64 each.
    partials: Tensor,
    count: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    segments: DevicePtr,
    tasks: DevicePtr,
    scalars: DevicePtr,
    partials: DevicePtr,
    outcome: DevicePtr,
    count: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
}

impl FusedAdamW {
    /// An optimiser of no parameters.
    pub fn new(device: Device, beta1: f32, beta2: f32, eps: f32) -> Result<Self> {
        Ok(Self {
            device,
            betas: [beta1, beta2],
            eps,
            segments: Vec::new(),
            tables: None,
            outcome: Tensor::zeros([2], DType::F32, device)?,
        })
    }

    /// Says which parameters [`FusedAdamW::step`] changes. Where they are those of before, at the same addresses, nothing is
    /// uploaded.
    ///
    /// # Errors
    /// Addresses that are not multiples of 16 (8 for the shadow); the addresses of tensors are.
    ///
    /// # Safety
    /// Until the next call, whenever a step is queued, the addresses are valid on the device for `len` values and do not overlap.
    pub unsafe fn set_segments(&mut self, segments: &[Segment]) -> Result<()> {
        if self.tables.is_some() && self.segments == segments {
            return Ok(());
        }
        let mut table = Vec::new();
        let mut tasks = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            segment.check()?;
            table.extend(segment.words());
            let chunks = 0..segment.len.div_ceil(CHUNK as u64) as u32;
            tasks.extend(chunks.flat_map(|chunk| [i as u32, chunk]));
        }
        let words = |words: &[u32]| Tensor::from_slice([words.len()], words, self.device);
        self.tables = Some(Tables {
            segments: words(&table)?,
            tasks: words(&tasks)?,
            partials: Tensor::empty([tasks.len()], DType::U32, self.device)?,
            count: (tasks.len() / 2) as u32,
        });
        self.segments = segments.to_vec();
        Ok(())
    }

    /// Queues one step of all parameters; where the norm of their gradients is not finite, they stay as they are.
    ///
    /// # Errors
    /// `scalars` that are not the four values of [`Scalars::values`] on the device.
    pub fn step(&mut self, scalars: &Tensor) -> Result<()> {
        check::device(OP, "the scalars", self.device, scalars.device())?;
        check::dtype(OP, "the scalars", DType::F32, scalars.dtype())?;
        let Some(tables) = &mut self.tables else {
            return Ok(());
        };
        if scalars.len() != 4 {
            return Err(Error::shape(OP, "the scalars", "(4)", scalars.shape()));
        }
        let params = Params {
            segments: tables.segments.view().ptr(),
            tasks: tables.tasks.view().ptr(),
            scalars: scalars.view().ptr(),
            partials: tables.partials.view_mut()?.ptr(),
            outcome: self.outcome.view_mut()?.ptr(),
            count: tables.count,
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
        };
        let grids = [
            ("adamw_squares", tables.count, THREADS),
            ("adamw_norm", 1, 1024),
            ("adamw_update", tables.count, THREADS),
        ];
        for (entry, grid, block) in grids {
            let kernel = kernel(self.device, &SOURCE, entry, &[])?;
            // SAFETY: the parameters are the kernel's; the segments are valid as `set_segments` was promised, and the tables
            // have a place for every task.
            unsafe { kernel.launch([grid, 1, 1], block, 0, &params)? };
        }
        Ok(())
    }

    /// Two f32 values on the device, as the last step left them: the norm of all gradients together, and the factor they were
    /// scaled by, NaN where nothing was changed. The next step overwrites them.
    pub fn outcome(&self) -> &Tensor {
        &self.outcome
    }
}

impl Segment {
    fn check(&self) -> Result<()> {
        let f32s = [self.value, self.gradient, self.first, self.second];
        let aligned = f32s.iter().all(|ptr| ptr.0.is_multiple_of(4 * VECTOR))
            && self.shadow.0.is_multiple_of(2 * VECTOR);
        match aligned {
            true => Ok(()),
            false => Err(Error::argument(
                OP,
                "a parameter that does not start at a multiple of 16 bytes",
            )),
        }
    }

    /// The segment as it lies in memory.
    fn words(&self) -> [u32; size_of::<Segment>() / 4] {
        // SAFETY: `repr(C)` without gaps, of words alone.
        unsafe { std::mem::transmute(*self) }
    }
}

impl Scalars {
    /// The values that [`FusedAdamW::step`] reads: lr, 1 / (1 − β1^t), 1 / √(1 − β2^t), clip.
    pub fn values(&self, beta1: f32, beta2: f32) -> [f32; 4] {
        let rest = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        let first = rest(beta1).recip() as f32;
        let second = rest(beta2).sqrt().recip() as f32;
        [self.lr, first, second, self.clip]
    }
}

/// The programs of this operation.
pub fn variants() -> Vec<Variant> {
    vec![Variant {
        source: &SOURCE,
        defines: Vec::new(),
        hot: true,
    }]
}
