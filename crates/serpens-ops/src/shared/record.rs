//! How operations of one output are recorded.

use serpens_core::tape::{self, Backward, BackwardContext, tracked};
use serpens_core::{Result, Tensor, Var};

/// Passes the gradient of an operation's output on to its inputs, from what the operation has kept.
pub(crate) type Rule<K> = fn(K, Tensor, &mut BackwardContext<'_, '_>) -> Result<()>;

struct Kept<K> {
    kept: K,
    rule: Rule<K>,
}

impl<K> Backward for Kept<K> {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        match context.take_output(0) {
            Some(dy) => (self.rule)(self.kept, dy, context),
            None => Ok(()),
        }
    }
}

/// Records `y` as what the operation made of `inputs`. Only where a gradient will be asked for, `keep` gives what
/// `rule` needs.
pub(crate) fn record<K: 'static>(
    op: &'static str,
    inputs: &[Option<&Var>],
    y: Tensor,
    keep: impl FnOnce() -> K,
    rule: Rule<K>,
) -> Result<Var> {
    let operation = tracked(inputs).then(|| {
        let kept = keep();
        Box::new(Kept { kept, rule }) as Box<dyn Backward>
    });
    let [y] = tape::record(op, inputs, [y], operation)?;
    Ok(y)
}
