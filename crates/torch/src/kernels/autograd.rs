//! Operations of our own in autograd's graph.

use tch::{Tensor, no_grad};

#[cxx::bridge(namespace = "hydrometer")]
mod ffi {
    extern "Rust" {
        type Backward;

        unsafe fn run(self: &mut Backward, gradient: *mut Tensor) -> Vec<usize>;
        fn release(self: &mut Backward);
    }

    unsafe extern "C++" {
        include!("autograd.h");

        #[namespace = "at"]
        type Tensor;

        unsafe fn record(output: *mut Tensor, inputs: &[usize], backward: Box<Backward>) -> Result<()>;
    }
}

type Gradients = Vec<Option<Tensor>>;

/// The backward pass of one operation, which is run at most once.
struct Backward(Option<Box<dyn FnOnce(Tensor) -> Gradients>>);

impl Backward {
    /// # Safety
    /// `gradient` is an `at::Tensor` on the heap, which this call takes over.
    unsafe fn run(&mut self, gradient: *mut ffi::Tensor) -> Vec<usize> {
        // SAFETY: promised by the caller; tch owns such a tensor from now on.
        let gradient = unsafe { Tensor::from_ptr(gradient.cast()) };
        let backward = self.0.take().expect("a graph is walked backward once");
        let address = |gradient: Option<Tensor>| {
            gradient.map_or(0, |gradient| {
                let address = gradient.as_ptr() as usize;
                // The caller frees it.
                std::mem::forget(gradient);
                address
            })
        };
        no_grad(|| backward(gradient)).into_iter().map(address).collect()
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
    let (output, backward) = no_grad(forward);
    let addresses: Vec<usize> = inputs.iter().map(|input| input.as_ptr() as usize).collect();
    // SAFETY: a tensor of tch is an `at::Tensor`; all of them outlive the call.
    unsafe { ffi::record(output.as_ptr().cast_mut().cast(), &addresses, Box::new(Backward(Some(Box::new(backward))))) }
        .expect("a floating-point tensor can have a gradient");
    output
}
