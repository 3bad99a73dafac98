//! The runtime that commands wait on.

use actix::System;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Stores and the server are waited for on these; computing has threads of its own.
const RUNTIME_THREADS: usize = 2;

/// Runs a future on a multi-thread runtime that actors can live on.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = lasting(RUNTIME_THREADS)?;
    Ok(System::with_tokio_rt(|| runtime).block_on(work))
}

/// One thread beside the others, for what would spend more on waking threads than on its work.
pub fn one_thread() -> Result<Handle, Failure> {
    Ok(lasting(1)?.handle().clone())
}

/// It lives as long as the process: dropping a runtime waits for its blocking calls, and a store that hangs in one must not keep
/// the process from ending.
fn lasting(threads: usize) -> Result<Arc<Runtime>, Failure> {
    let built = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = built.map(Arc::new).map_err(|error: std::io::Error| {
        Failure::new(ErrorCode::Unknown, format!("cannot start a runtime: {error}"))
    })?;
    std::mem::forget(runtime.clone());
    Ok(runtime)
}

/// Resolves when somebody asks the process to end.
pub async fn terminated() -> Failure {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => either(terminate, interrupt).await,
        (Err(error), _) | (_, Err(error)) => {
            return Failure::new(ErrorCode::Unknown, format!("cannot wait for signals: {error}"));
        }
    }
    Failure::new(ErrorCode::Term, "terminated by a signal")
}

async fn either(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
