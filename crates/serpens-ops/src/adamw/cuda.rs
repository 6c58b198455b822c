//! AdamW on a GPU: all parameters in one launch, after one that sums the squares of their gradients and one that makes
//! the norm and the clipping factor of the sums. Nothing comes to the host, and a [`serpens_core::cuda::Graph`] can
//! hold the step.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, Staging, kernel};
use serpens_core::{DType, Device, Error, Result, Tensor, kernel_params};

use super::{AdamWSettings, OP, Parameter};

static SOURCE: Source = Source::new("adamw", include_str!("kernel.cu"))
    .params(&[AdamWEntry::declare, AdamWParams::declare]);

/// Threads of a block.
const THREADS: u32 = 256;
/// Values of a task, as in the kernels.
const TASK: usize = 8192;

kernel_params! {
    /// One parameter and what belongs to it: `len` f32 values each, and the parameter's bf16 shadow where it has one.
    #[derive(PartialEq)]
    pub(super) struct AdamWEntry {
        value: DevicePtr as "float*",
        gradient: DevicePtr as "const float*",
        first: DevicePtr as "float*",
        second: DevicePtr as "float*",
        shadow: DevicePtr as "bf16*", // the value in bfloat16, or null
        len: u64 as "i64",
        weight_decay: f32,
        max_lr: f32,
    }

    struct AdamWParams {
        entries: DevicePtr as "const struct AdamWEntry*",
        tasks: DevicePtr as "const struct Task*",
        scalars: DevicePtr as "const struct Scalars*",
        partials: DevicePtr as "double*", // (tasks)
        outcome: DevicePtr as "struct Outcome*",
        count: u32, // of tasks
        beta1: f32,
        beta2: f32,
        eps: f32,
    }
}

impl AdamWEntry {
    /// The addresses of a parameter, its gradient and its moments, which have been checked.
    pub(super) fn new(parameter: Parameter<'_>, [first, second]: &mut [Tensor; 2]) -> Result<Self> {
        let address = |tensor: &mut Tensor| Ok::<_, Error>(tensor.view_mut()?.ptr());
        Ok(Self {
            value: address(parameter.value)?,
            gradient: parameter.gradient.view().ptr(),
            first: address(first)?,
            second: address(second)?,
            shadow: parameter.shadow.map_or(Ok(DevicePtr::NULL), address)?,
            len: parameter.gradient.len() as u64,
            weight_decay: parameter.weight_decay,
            max_lr: parameter.max_lr,
        })
    }

    /// The entry as it lies in memory.
    fn words(&self) -> [u32; size_of::<AdamWEntry>() / 4] {
        // SAFETY: `repr(C)` without gaps, of words alone.
        unsafe { std::mem::transmute(*self) }
    }
}

/// What a step on a GPU needs besides the parameters: tables on the device, and the numbers that change from step to
/// step.
pub(super) struct FusedStep {
    settings: AdamWSettings,
    entries: Vec<AdamWEntry>,
    tables: Option<Tables>,
    /// lr, 1 / (1 − β1^t), 1 / √(1 − β2^t), clip; and the way there.
    scalars: Tensor,
    staging: Staging,
    /// The norm of all gradients together, and the factor they were scaled by, NaN where nothing was changed.
    outcome: Tensor,
}

struct Tables {
    entries: Tensor,
    /// (entry, task of it) of each block.
    tasks: Tensor,
    /// Sum of squares of each task, an f64 each.
    partials: Tensor,
    count: u32,
}

impl FusedStep {
    pub(super) fn new(device: Device, settings: AdamWSettings) -> Result<Self> {
        Ok(Self {
            settings,
            entries: Vec::new(),
            tables: None,
            scalars: Tensor::zeros([4], DType::F32, device)?,
            staging: Staging::new(device, 4 * size_of::<f32>())?,
            outcome: Tensor::zeros([2], DType::F32, device)?,
        })
    }

    pub(super) fn device(&self) -> Device {
        self.scalars.device()
    }

    /// Says what [`FusedStep::launch`] changes at step `step`, and with which learning rate. The table goes up only
    /// where it is not that of before, which the result tells.
    pub(super) fn prepare(&mut self, entries: Vec<AdamWEntry>, lr: f32, step: u64) -> Result<bool> {
        if entries.is_empty() {
            return Err(Error::Missing {
                op: OP,
                what: "a parameter with a gradient",
            });
        }
        let moved = self.entries != entries;
        if moved {
            self.tables = Some(Tables::new(&entries, self.device())?);
            self.entries = entries;
        }
        let rest = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let first = rest(self.settings.beta1).recip() as f32;
        let second = rest(self.settings.beta2).sqrt().recip() as f32;
        let scalars = [lr, first, second, self.settings.clip];
        self.staging.upload(&mut self.scalars, &scalars)?;
        Ok(moved)
    }

    /// Queues the step; where the norm of the gradients is not finite, the parameters stay as they are.
    pub(super) fn launch(&mut self) -> Result<()> {
        let device = self.device();
        let Some(tables) = &mut self.tables else {
            return Ok(());
        };
        let params = AdamWParams {
            entries: tables.entries.view().ptr(),
            tasks: tables.tasks.view().ptr(),
            scalars: self.scalars.view().ptr(),
            partials: tables.partials.view_mut()?.ptr(),
            outcome: self.outcome.view_mut()?.ptr(),
            count: tables.count,
            beta1: self.settings.beta1,
            beta2: self.settings.beta2,
            eps: self.settings.eps,
        };
        let grids = [
            ("adamw_squares", tables.count, THREADS),
            ("adamw_norm", 1, 1024),
            ("adamw_update", tables.count, THREADS),
        ];
        for (entry, grid, block) in grids {
            let kernel = kernel(device, &SOURCE, entry, &[])?;
            // SAFETY: the parameters are the kernel's; what the entries point to is kept as `AdamW::launch` asks, and
            // the tables have a place for every task.
            unsafe { kernel.launch([grid, 1, 1], block, 0, &params)? };
        }
        Ok(())
    }

    /// The norm of all gradients together, and the factor they were scaled by, NaN where nothing was changed. Waits for
    /// the step.
    pub(super) fn outcome(&self) -> Result<Vec<f32>> {
        self.outcome.to_vec()
    }
}

impl Tables {
    fn new(entries: &[AdamWEntry], device: Device) -> Result<Self> {
        let table: Vec<u32> = entries.iter().flat_map(AdamWEntry::words).collect();
        let mut tasks = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let of_entry = 0..entry.len.div_ceil(TASK as u64) as u32;
            tasks.extend(of_entry.flat_map(|task| [i as u32, task]));
        }
        let words = |words: &[u32]| Tensor::from_slice([words.len()], words, device);
        Ok(Self {
            entries: words(&table)?,
            tasks: words(&tasks)?,
            partials: Tensor::empty([tasks.len()], DType::U32, device)?,
            count: (tasks.len() / 2) as u32,
        })
    }
}
