//! Operations of our own in autograd's graph.

use tch::{Tensor, no_grad};

#[cxx::bridge(namespace = "hydrometer")]
mod ffi {
    extern "Rust" {
        type Backward;

        unsafe fn run(self: &mut Backward, gradients: Vec<usize>) -> Vec<usize>;
        fn release(self: &mut Backward);
    }

    unsafe extern "C++" {
        include!("autograd.h");

        unsafe fn record(outputs: &[usize], inputs: &[usize], backward: Box<Backward>) -> Result<()>;
    }
}

/// Of each output or input; `None` is zero.
type Gradients = Vec<Option<Tensor>>;

/// The backward pass of one operation, which is run at most once.
struct Backward(Option<Box<dyn FnOnce(Gradients) -> Gradients>>);

impl Backward {
    /// # Safety
    /// `gradients` are addresses of `at::Tensor` on the heap, which this call takes over, or 0.
    unsafe fn run(&mut self, gradients: Vec<usize>) -> Vec<usize> {
        // SAFETY: promised by the caller; tch owns such a tensor from now on.
        let owned = |address| unsafe { Tensor::from_ptr(std::ptr::with_exposed_provenance_mut(address)) };
        let given = gradients.into_iter().map(|address| (address != 0).then(|| owned(address))).collect();
        let backward = self.0.take().expect("a graph is walked backward once");
        let address = |gradient: Option<Tensor>| {
            gradient.map_or(0, |gradient| {
                let address = gradient.as_ptr().expose_provenance();
                // The caller frees it.
                std::mem::forget(gradient);
                address
            })
        };
        no_grad(|| backward(given)).into_iter().map(address).collect()
    }

    /// Frees what the backward pass would have read.
    fn release(&mut self) {
        self.0 = None;
    }
}

/// Runs `forward` on `inputs` without recording, and makes its output a single operation of autograd's graph. `forward` also returns
/// the backward pass: from the gradient of the output, that of each input. If the backward pass reads the output, it must keep
/// `output.detach()`: keeping the output itself would keep both alive forever.
pub fn record<B>(inputs: &[&Tensor], forward: impl FnOnce() -> (Tensor, B)) -> Tensor
where
    B: FnOnce(Tensor) -> Gradients + 'static,
{
    let [output] = record_all(inputs, || {
        let (output, backward) = forward();
        let backward = |[gradient]: [Option<Tensor>; 1]| backward(gradient.expect("the gradient of the only output"));
        ([output], backward)
    });
    output
}

/// [`record`] for an operation with N outputs. Gradients of outputs that nothing was computed from are `None`, but not all of them.
pub fn record_all<B, const N: usize>(inputs: &[&Tensor], forward: impl FnOnce() -> ([Tensor; N], B)) -> [Tensor; N]
where
    B: FnOnce([Option<Tensor>; N]) -> Gradients + 'static,
{
    let (outputs, backward) = no_grad(forward);
    let backward = |gradients: Gradients| backward(gradients.try_into().expect("a gradient for each output"));
    let address = |tensor: &Tensor| tensor.as_ptr().expose_provenance();
    let inputs: Vec<usize> = inputs.iter().map(|input| address(input)).collect();
    // SAFETY: a tensor of tch is an `at::Tensor`; all of them outlive the call.
    unsafe { ffi::record(&outputs.each_ref().map(address), &inputs, Box::new(Backward(Some(Box::new(backward))))) }
        .expect("a floating-point tensor can have a gradient");
    outputs
}
