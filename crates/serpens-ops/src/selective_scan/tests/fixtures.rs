//! Reference vectors: scans and their gradients in f64, computed by an independent implementation.

use safetensors::{Dtype, SafeTensors};

use super::*;

fn tensor(file: &SafeTensors, name: &str) -> Option<Vec<f64>> {
    let view = file.tensor(name).ok()?;
    let values = match view.dtype() {
        Dtype::F64 => view
            .data()
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect(),
        Dtype::F32 => view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()).into())
            .collect(),
        other => panic!("{name} is {other:?}"),
    };
    Some(values)
}

/// A result by its name; absent where the case has none.
type Expected = (&'static str, Option<Vec<f64>>);

fn read(name: &str) -> (Case, Vec<Expected>) {
    let path = format!(
        "{}/src/selective_scan/tests/fixtures/{name}.safetensors",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let softplus = metadata.metadata().as_ref().unwrap()["softplus"] == "true";
    let get = |name: &str| tensor(&file, name);
    let needed = |name: &str| get(name).unwrap();
    let shape = |name: &str| file.tensor(name).unwrap().shape().to_vec();
    let (u, b) = (shape("u"), shape("B"));
    let case = Case {
        scan: Scan {
            dims: dims(u[0], u[1], u[2], b[3], b[2]),
            operands: ScanOperands {
                u: needed("u"),
                delta: needed("delta"),
                a: needed("A"),
                a_im: None,
                b: needed("B"),
                c: needed("C"),
                d: get("D"),
                z: get("z"),
                delta_bias: get("delta_bias"),
                initial_state: get("h0"),
            },
            starts: None,
            softplus,
            zero_order_hold: false,
            reverse: false,
        },
        dout: needed("dy"),
        dlast: get("dlast_state"),
    };
    let expected = [
        ("out", "y"),
        ("last", "last_state"),
        ("u", "du"),
        ("delta", "ddelta"),
        ("A", "dA"),
        ("B", "dB"),
        ("C", "dC"),
        ("D", "dD"),
        ("z", "dz"),
        ("delta_bias", "ddelta_bias"),
        ("initial_state", "dh0"),
    ];
    (
        case,
        expected.map(|(ours, theirs)| (ours, get(theirs))).to_vec(),
    )
}

#[test]
fn values_and_gradients_agree_with_the_reference_vectors() {
    let names = [
        "plain",
        "full",
        "no-softplus",
        "groups",
        "initial-state",
        "state-1",
        "state-64",
        "length-1",
        "long",
    ];
    for name in names {
        let (case, expected) = read(name);
        let exact = case.plain::<f64>();
        for (tensor, ours) in exact.tensors() {
            let theirs = expected.iter().find(|(name, _)| *name == tensor);
            let Some((_, Some(theirs))) = theirs else {
                // The long case leaves out the gradients of B and C, to be small.
                assert!(name == "long", "{name} lacks {tensor}");
                continue;
            };
            let size = theirs.iter().fold(0.0f64, |max, x| max.max(x.abs()));
            assert!(
                largest_error(ours, theirs) <= 1e-12 * size,
                "{tensor} of {name}"
            );
        }
        case.check();
    }
}
