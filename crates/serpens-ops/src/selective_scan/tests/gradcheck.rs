//! The backward rule of the scan against finite differences, through the tape as a user meets it.

use serpens_core::{Result, Var};

use crate::Starts;
use crate::elementwise::{mul, neg_exp};
use crate::selective_scan::{ScanOperands, ScanOptions, ScanOutput, selective_scan};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn selective_scan_has_the_gradients_of_its_definition() {
    // Forward the first row begins with a sequence and the second goes on; in reverse the other way round.
    let ids = [9, 0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2, 3];
    let starts = Starts::from_sequence_ids(&ids, 2).unwrap();
    let starts = starts.chunk(1..6).unwrap();
    let (b, l, e, n, g) = (2, 5, 4, 3, 2);
    for (complex, zero_order_hold) in [(false, false), (false, true), (true, false)] {
        let width = if complex { 2 * n } else { n };
        let inputs = tensors([
            [b, l, e].into(),
            [b, l, e].into(),
            [e, n].into(),
            [e, n].into(),
            [b, l, g * width].into(),
            [b, l, g * width].into(),
            [e].into(),
            [b, l, e].into(),
            [e].into(),
            [b, e, width].into(),
        ]);
        for (reverse, packed) in [(false, false), (true, false), (false, true), (true, true)] {
            let run = |v: &[Var]| -> Result<ScanOutput> {
                let a = neg_exp(&v[2])?;
                let inputs = ScanOperands {
                    u: &v[0],
                    delta: &v[1],
                    a: &a,
                    a_im: complex.then_some(&v[3]),
                    b: &v[4],
                    c: &v[5],
                    d: Some(&v[6]),
                    z: Some(&v[7]),
                    delta_bias: Some(&v[8]),
                    initial_state: Some(&v[9]),
                };
                let options = ScanOptions {
                    groups: g,
                    zero_order_hold,
                    reverse,
                    starts: packed.then_some(&starts),
                    ..ScanOptions::default()
                };
                selective_scan(&inputs, &options)
            };
            let what = format!(
                "complex {complex}, held {zero_order_hold}, reverse {reverse}, packed {packed}"
            );
            assert_gradients(&what, |v| Ok(run(v)?.y), &inputs);
            assert_gradients(&what, |v| Ok(run(v)?.last_state), &inputs);
        }
    }
}

#[test]
fn a_scan_of_columns_without_options_has_the_gradients_of_its_definition() {
    // Δ, B and C side by side in one row, as a projection leaves them; Δ is kept positive by squaring instead of
    // softplus.
    let inputs = tensors([[1, 6, 2].into(), [1, 6, 8].into(), [2, 3].into()]);
    let run = |v: &[Var]| -> Result<Var> {
        let delta = v[1].columns(0..2)?;
        let inputs = ScanOperands {
            u: &v[0],
            delta: &mul(&delta, &delta)?,
            a: &v[2],
            a_im: None,
            b: &v[1].columns(2..5)?,
            c: &v[1].columns(5..8)?,
            d: None,
            z: None,
            delta_bias: None,
            initial_state: None,
        };
        let options = ScanOptions {
            softplus: false,
            ..ScanOptions::default()
        };
        Ok(selective_scan(&inputs, &options)?.y)
    };
    assert_gradients("scan of columns", run, &inputs);
}
