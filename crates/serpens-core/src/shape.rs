//! Shapes of contiguous row-major tensors.

use std::fmt;
use std::ops::Deref;

use crate::{Error, Result, expect_range};

/// The most axes a tensor may have.
pub const MAX_RANK: usize = 6;

/// The sizes of a tensor's axes, the slowest first; derefs to a slice of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The shape with these sizes.
    ///
    /// # Panics
    /// With more than [`MAX_RANK`] axes; where their number is not known beforehand, `Shape::try_from` refuses.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "at most {MAX_RANK} axes");
        let mut all = [1; MAX_RANK];
        all[..dims.len()].copy_from_slice(dims);
        Self {
            dims: all,
            rank: dims.len(),
        }
    }

    /// Number of values, [`usize::MAX`] where it exceeds the address space.
    pub fn count(&self) -> usize {
        product(self)
    }

    /// The product of all axes that are not zero: where there are no values, strides and numbers of rows still are
    /// products of some of these.
    pub(crate) fn extent(&self) -> Option<usize> {
        let mut dims = self.iter().filter(|&&dim| dim > 0);
        dims.try_fold(1_usize, |product, &dim| product.checked_mul(dim))
    }

    /// The size of the last axis, 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// The product of all axes but the last.
    pub fn rows(&self) -> usize {
        product(&self[..self.rank.saturating_sub(1)])
    }

    /// The sizes of an operand's axes, which must be as many as `names` has.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are more or fewer.
    pub fn axes<const K: usize>(
        self,
        op: &'static str,
        what: &'static str,
        names: &str,
    ) -> Result<[usize; K]> {
        let sizes = self[..].try_into();
        sizes.map_err(|_| Error::shape(op, what, names, self))
    }

    /// The same shape with the last axis replaced.
    pub fn with_cols(mut self, cols: usize) -> Self {
        self.rank = self.rank.max(1);
        self.dims[self.rank - 1] = cols;
        self
    }
}

/// The product of some axes, as large as can be said.
fn product(dims: &[usize]) -> usize {
    dims.iter()
        .fold(1, |product: usize, &dim| product.saturating_mul(dim))
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        const { assert!(N <= MAX_RANK) };
        Shape::new(&dims)
    }
}

impl TryFrom<&[usize]> for Shape {
    type Error = Error;

    /// # Errors
    /// [`Error::Range`] with more than [`MAX_RANK`] axes.
    fn try_from(dims: &[usize]) -> Result<Self> {
        expect_range("Shape", "the number of axes", 0..MAX_RANK + 1, dims.len())?;
        Ok(Shape::new(dims))
    }
}

impl From<usize> for Shape {
    fn from(dim: usize) -> Self {
        Shape::new(&[dim])
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.iter().map(usize::to_string).collect();
        write!(f, "({})", dims.join(", "))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
