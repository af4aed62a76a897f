//! The generated side of the interfaces in this module: traits to implement and types to answer with.

mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package mayfly:host;
            world models {
                import wasi:nn/tensor@0.2.0-rc-2024-10-28;
                import wasi:nn/graph@0.2.0-rc-2024-10-28;
                import wasi:nn/inference@0.2.0-rc-2024-10-28;
                import wasi:nn/errors@0.2.0-rc-2024-10-28;
                import mayfly:inference/models@0.1.0;
                import mayfly:inference/tokenizer@0.1.0;
                import wasi:config/store@0.2.0-rc.1;
            }
        ",
        imports: {
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            "mayfly:inference/models.run-many": async | trappable,
            "mayfly:inference/tokenizer.encode": async | trappable,
            "mayfly:inference/tokenizer.decode": async | trappable,
            "mayfly:inference/tokenizer.count": async | trappable,
            default: trappable,
        },
        with: {
            "wasi:nn/tensor.tensor": crate::nn::tensor::HostTensor,
            "wasi:nn/graph.graph": crate::nn::graph::HostGraph,
            "wasi:nn/inference.graph-execution-context": crate::nn::inference::HostContext,
            "wasi:nn/errors.error": crate::nn::errors::NnError,
        },
    });
}

pub(super) use generated::Models;
pub(super) use generated::mayfly::inference::{models, tokenizer};
pub(super) use generated::wasi::config::store;
pub(super) use generated::wasi::nn::{errors, graph, inference, tensor};
