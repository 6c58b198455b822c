//! The same scans again and again, at mixed shapes, several at a time.

use std::thread;

use serpens_core::cuda::Stream;
use serpens_core::{DType, Device, Gradients, Tape, Tensor};

use super::devices::{Case, dtype_of, small};
use crate::selective_scan::{ScanOperands, selective_scan};
use crate::shared::tests::{read, tensor};

/// How often, of all shapes together.
const REPLAYS: &str = "SERPENS_REPLAYS";

/// Streams that replay at the same time.
const STREAMS: usize = 3;

/// A scan whose operands lie on a device.
struct Prepared {
    case: Case,
    operands: ScanOperands<Tensor>,
    upstream: [Tensor; 2],
}

impl Prepared {
    fn new(case: Case, device: Device, dtype: DType) -> Self {
        let (scan, (dy, dlast)) = (case.scan(dtype), case.upstream(dtype));
        let dims = scan.dims;
        let operands = scan.operands.map(|role, values| {
            tensor((role.shape)(&dims), &values, dtype_of(role, dtype), device)
        });
        let last = [dims.batch, dims.channels, dims.width()];
        Self {
            case,
            upstream: [
                tensor(operands.u.shape(), &dy, dtype, device),
                tensor(last, &dlast, DType::F32, device),
            ],
            operands,
        }
    }

    /// y, the last state and every gradient.
    fn run(&self) -> Vec<Vec<f64>> {
        let (tape, starts) = (Tape::new(), self.case.starts());
        let leaves = self
            .operands
            .as_ref()
            .map(|_, operand| tape.leaf(operand.clone()));
        let options = self.case.options(starts.as_ref());
        let output = selective_scan(&leaves.as_ref(), &options).unwrap();
        let [dy, dlast] = self.upstream.clone();
        let upstream = vec![(&output.y, dy), (&output.last_state, dlast)];
        tape.backward_from(upstream, &mut Gradients::new()).unwrap();
        let outputs = [&output.y, &output.last_state].map(|output| read(output.tensor().unwrap()));
        let gradients = leaves
            .iter()
            .map(|(_, leaf)| tape.gradient(leaf).unwrap().unwrap());
        outputs
            .into_iter()
            .chain(gradients.map(|gradient| read(&gradient)))
            .collect()
    }
}

#[test]
fn replays_beside_each_other_give_the_same_bits_on_every_gpu() {
    let asked = std::env::var(REPLAYS);
    let replays: usize = asked.map_or(60, |count| count.parse().expect("a number of replays"));
    let gpus = Device::available()
        .into_iter()
        .filter(|&device| device != Device::Cpu);
    for device in gpus {
        let both = |case| [DType::F32, DType::BF16].map(|dtype| Prepared::new(case, device, dtype));
        let scans: Vec<Prepared> = small().into_iter().flat_map(both).collect();
        let expected: Vec<_> = scans.iter().map(Prepared::run).collect();
        device.synchronize().unwrap();
        let (scans, expected) = (&scans, &expected);
        let replay = |first: usize| {
            Stream::new(device).unwrap().scope(|| {
                for i in (first..replays).step_by(STREAMS) {
                    // Each stream meets the shapes in another order.
                    let which = i * (2 * first + 1) % scans.len();
                    let case = scans[which].case;
                    assert_eq!(
                        scans[which].run(),
                        expected[which],
                        "replay {i} of {case:?}"
                    );
                }
            });
        };
        thread::scope(|scope| {
            for first in 0..STREAMS {
                scope.spawn(move || replay(first));
            }
        });
    }
}
