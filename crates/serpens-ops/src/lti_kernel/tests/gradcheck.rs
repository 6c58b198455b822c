//! The backward rule against finite differences, through the tape as a user meets it.

use serpens_core::{Result, Var};

use crate::elementwise::{exp, neg_exp};
use crate::lti_kernel::{LtiSystem, lti_kernel};
use crate::shared::tests::gradcheck::{assert_gradients, tensors};

#[test]
fn lti_kernel_has_the_gradients_of_its_definition() {
    let (e, n) = (3, 4);
    let inputs = tensors([
        [e].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e, n].into(),
        [e].into(),
    ]);
    for complex in [false, true] {
        let run = |v: &[Var]| -> Result<Var> {
            let system = LtiSystem {
                dt: &exp(&v[0])?,
                a: &neg_exp(&v[1])?,
                a_im: complex.then_some(&v[2]),
                b: &v[3],
                b_im: complex.then_some(&v[4]),
                c: &v[5],
                c_im: complex.then_some(&v[6]),
                d: Some(&v[7]),
            };
            lti_kernel(&system, 9)
        };
        assert_gradients(&format!("lti_kernel, complex {complex}"), run, &inputs);
    }
}
