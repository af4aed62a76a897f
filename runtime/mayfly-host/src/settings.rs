//! The engine's settings, the same for the server and for its compiling child: code compiled by one must fit the other.

use std::hash::{Hash, Hasher};

use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Everything that shapes compiled code. The allocation strategy does not.
fn shape() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .wasm_component_model(true)
        // Only WASI 0.2 is served; without concurrency a store is a good deal cheaper to make.
        .concurrency_support(false)
        .epoch_interruption(true)
        // 4 GiB reserved and a guard: no bounds checks in the code.
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .memory_init_cow(true)
        // For foreign unwinders only; registering it costs at every mapping, and more the more code is mapped.
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32))
        .max_wasm_stack(512 << 10)
        // Twice what a guest may use: the rest is for host code, short runs of ONNX Runtime among it, which is at home on
        // threads with 512 KiB. With 2 MiB each instance's stack would have a page of page tables to itself.
        .async_stack_size(1 << 20);
    config
}

/// An engine that compiles and runs nothing: no pool is reserved.
pub(crate) fn compiling_engine() -> wasmtime::Result<Engine> {
    Engine::new(&shape())
}

/// An engine whose instances come from `pool`.
pub(crate) fn pooled_engine(pool: PoolingAllocationConfig) -> wasmtime::Result<Engine> {
    let mut config = shape();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// 32 hexadecimal digits that differ whenever code compiled by one engine would not fit the other.
pub(crate) fn compatibility(engine: &Engine) -> String {
    /// Feeds what `Hash` writes to a stable hash; the standard one may change with the compiler.
    struct Blake(blake3::Hasher);
    impl Hasher for Blake {
        fn finish(&self) -> u64 {
            let hash = self.0.finalize();
            let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
            u64::from_le_bytes(*first)
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }

    let mut hasher = Blake(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_compiles_for_the_pool() {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_memories(2).total_core_instances(2).total_stacks(2).total_tables(2);
        let pooled = pooled_engine(pool).expect("a pool of two fits every machine");
        let compiling = compiling_engine().expect("the settings are valid");
        assert_eq!(compatibility(&pooled), compatibility(&compiling));
    }
}
