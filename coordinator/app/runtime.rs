//! The runtime that commands wait on.

use actix::System;
use pgconvoy_core::failure::{ErrorCode, Failure};
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Stores and the server are waited for on these; computing has threads of its own.
const RUNTIME_THREADS: usize = 2;

/// Runs a future on a multi-thread runtime that actors can live on.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(ErrorCode::Unknown, format!("cannot start a runtime: {error}"));
    let runtime =
        Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build().map_err(failed)?;
    let runtime = Arc::new(runtime);
    // Dropping a runtime waits for its blocking calls, and a store that hangs in one must not keep the process from ending.
    std::mem::forget(runtime.clone());
    Ok(System::with_tokio_rt(|| runtime).block_on(work))
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
