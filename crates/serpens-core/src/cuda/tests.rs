//! Work on a card that is pretended.

use super::*;
use crate::{DType, Device, Error, Tensor};

#[test]
fn a_pretended_card_takes_all_kinds_of_work_and_gives_zeros() {
    let [_, hopper, _] = Properties::generations();
    let work = |device| {
        assert_eq!(properties(device)?, &hopper);
        let mut x = Tensor::from_slice([4], &[1.0_f32, 2.0, 3.0, 4.0], device)?;
        let shared = x.clone();
        Staging::new(device, 16)?.upload(&mut x, &[5.0_f32; 4])?;
        assert_ne!(x.view().ptr(), shared.view().ptr());
        assert_eq!(x.to_vec::<f32>()?, [0.0; 4]);
        let operand = |ptr| Operand {
            ptr,
            stride: 2,
            dtype: DType::F32,
            transposed: false,
        };
        let problem = Gemm {
            m: 2,
            n: 2,
            k: 2,
            a: operand(x.view().ptr()),
            b: operand(shared.view().ptr()),
            c: operand(DevicePtr::NULL),
            accumulate: false,
            tf32: false,
        };
        let (start, end) = (Event::new(device)?, Event::new(device)?);
        start.record()?;
        let graph = Graph::capture(device, || {
            // SAFETY: nothing is run on a card that is not there.
            unsafe { gemm(device, &problem) }
        })?;
        graph.replay()?;
        end.record()?;
        assert_eq!(end.seconds_since(&start)?, 0.0);
        device.synchronize()
    };
    assert!(rehearse(&hopper, work).unwrap().is_empty());
    let unknown = Device::cuda(1 << 20);
    assert!(matches!(unknown, Err(Error::NoDevice { .. })));
}
