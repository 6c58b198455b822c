//! A step on a GPU: all parameters in one launch, after one that sums the squares of their gradients and one that makes
//! the norm and the clipping factor of the sums. Nothing comes to the host, and a [`serpens_core::cuda::Graph`] can
//! hold the step.

use serpens_core::cuda::{DevicePtr, KernelParams, Source, Staging, kernel};
use serpens_core::{DType, Device, Error, Result, Tensor, kernel_params};

use super::{NUMBERS, OP, Parameter, Rule};

/// Threads of a block.
const THREADS: u32 = 256;
/// Values of a task.
const TASK: usize = 8192;
/// The most moments that a rule keeps on a GPU.
const MOST_MOMENTS: usize = 3;
/// What changes from step to step.
const SCALARS: usize = 2 + NUMBERS;

/// A rule as a GPU runs it: a function of CUDA C++, compiled into the kernels.
#[derive(Debug)]
pub struct Program(Source);

impl Program {
    /// The text defines
    ///
    /// ```cuda
    /// __device__ float step(float g, float lr, const float (&numbers)[NUMBERS], float (&moments)[MOST_MOMENTS])
    /// ```
    ///
    /// which gives what is taken off a value with gradient `g`, scaled by the clipping factor, and brings its moments
    /// forward, of which MOMENTS are the rule's. Weight decay is not its concern.
    ///
    /// # Safety
    /// The function writes to `moments[0]` … `moments[MOMENTS - 1]` alone.
    pub const unsafe fn new(name: &'static str, text: &'static str) -> Self {
        const CONSTANTS: &[(&str, i32)] = &[
            ("THREADS", THREADS as i32),
            ("TASK", TASK as i32),
            ("NUMBERS", NUMBERS as i32),
            ("MOST_MOMENTS", MOST_MOMENTS as i32),
        ];
        let source = Source::new(name, include_str!("kernel.cu")).after(text);
        Self(
            source
                .constants(CONSTANTS)
                .params(&[OptimizerEntry::declare, OptimizerParams::declare]),
        )
    }
}

kernel_params! {
    /// One parameter and what belongs to it: `len` f32 values each, and the parameter's bf16 shadow where it has one.
    #[derive(PartialEq)]
    pub(super) struct OptimizerEntry {
        value: DevicePtr as "float*",
        gradient: DevicePtr as "const float*",
        moments: [DevicePtr; MOST_MOMENTS] as "float*", // as many as the rule keeps
        shadow: DevicePtr as "bf16*", // the value in bfloat16, or null
        len: u64 as "i64",
        weight_decay: f32,
        max_lr: f32,
    }

    struct OptimizerParams {
        entries: DevicePtr as "const struct OptimizerEntry*",
        tasks: DevicePtr as "const struct Task*",
        scalars: DevicePtr as "const struct Scalars*",
        partials: DevicePtr as "double*", // (tasks)
        outcome: DevicePtr as "struct Outcome*",
        count: u32, // of tasks
    }
}

impl OptimizerEntry {
    /// The addresses of a parameter, its gradient and its moments, which have been checked.
    pub(super) fn new(parameter: Parameter<'_>, moments: &mut [Tensor]) -> Result<Self> {
        let address = |tensor: &mut Tensor| Ok::<_, Error>(tensor.view_mut()?.ptr());
        let mut places = [DevicePtr::NULL; MOST_MOMENTS];
        // Where there are more, the program does not compile.
        for (place, moment) in places.iter_mut().zip(moments) {
            *place = address(moment)?;
        }
        Ok(Self {
            value: address(parameter.value)?,
            gradient: parameter.gradient.view().ptr(),
            moments: places,
            shadow: parameter.shadow.map_or(Ok(DevicePtr::NULL), address)?,
            len: parameter.gradient.len() as u64,
            weight_decay: parameter.weight_decay,
            max_lr: parameter.max_lr,
        })
    }

    /// The entry as it lies in memory.
    fn words(&self) -> [u32; size_of::<OptimizerEntry>() / 4] {
        // SAFETY: `repr(C)` without gaps, of words alone.
        unsafe { std::mem::transmute(*self) }
    }
}

/// What a step on a GPU needs besides the parameters: tables on the device, and the numbers that change from step to
/// step.
pub(super) struct FusedStep {
    entries: Vec<OptimizerEntry>,
    tables: Option<Tables>,
    /// The learning rate, the limit of the norm, the rule's numbers; and the way there.
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
    pub(super) fn new(device: Device) -> Result<Self> {
        Ok(Self {
            entries: Vec::new(),
            tables: None,
            scalars: Tensor::zeros([SCALARS], DType::F32, device)?,
            staging: Staging::new(device, SCALARS * size_of::<f32>())?,
            outcome: Tensor::zeros([2], DType::F32, device)?,
        })
    }

    pub(super) fn device(&self) -> Device {
        self.scalars.device()
    }

    /// Says what [`FusedStep::launch`] changes, and with which numbers. The table goes up only where it is not that of
    /// before, which the result tells.
    pub(super) fn prepare(
        &mut self,
        entries: Vec<OptimizerEntry>,
        [lr, clip]: [f32; 2],
        numbers: [f32; NUMBERS],
    ) -> Result<bool> {
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
        let mut scalars = [0.0; SCALARS];
        scalars[..2].copy_from_slice(&[lr, clip]);
        scalars[2..].copy_from_slice(&numbers);
        self.staging.upload(&mut self.scalars, &scalars)?;
        Ok(moved)
    }

    /// Queues the step; where the norm of the gradients is not finite, the parameters stay as they are.
    pub(super) fn launch(&mut self, rule: &dyn Rule) -> Result<()> {
        let device = self.device();
        let Some(tables) = &mut self.tables else {
            return Ok(());
        };
        let program = rule.program().ok_or(Error::Missing {
            op: OP,
            what: "the rule's program for a GPU",
        })?;
        let params = OptimizerParams {
            entries: tables.entries.view().ptr(),
            tasks: tables.tasks.view().ptr(),
            scalars: self.scalars.view().ptr(),
            partials: tables.partials.view_mut()?.ptr(),
            outcome: self.outcome.view_mut()?.ptr(),
            count: tables.count,
        };
        let moments = rule.moments().len().to_string();
        let grids = [
            ("optimizer_squares", tables.count, THREADS),
            ("optimizer_norm", 1, 1024),
            ("optimizer_update", tables.count, THREADS),
        ];
        for (entry, grid, block) in grids {
            let kernel = kernel(device, &program.0, entry, &[("MOMENTS", &moments)])?;
            // SAFETY: the parameters are the kernel's; the tables have a place for every task; an entry has an address
            // for each of the rule's moments, which were counted when it was made, and the rule writes to no other;
            // what entries point to is kept as `Optimizer::launch` asks.
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
    fn new(entries: &[OptimizerEntry], device: Device) -> Result<Self> {
        let table: Vec<u32> = entries.iter().flat_map(OptimizerEntry::words).collect();
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
