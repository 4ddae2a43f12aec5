//! Reload: read and check the new whole, build all of it that can fail, then swap. On failure the old goes on and says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use super::{App, AppError, lifecycle, summary};

impl App {
    /// Never ends the relay. Queued deliveries keep the route they were given.
    pub(super) async fn reload(&mut self) {
        lifecycle::tell_reloading();
        let told = match self.try_reload().await {
            Ok(summary) => {
                self.metrics.reloaded(true);
                tracing::info!("reloaded: {summary}");
                summary
            }
            Err(error) => {
                self.metrics.reloaded(false);
                tracing::error!("reload refused, the rules in force stay: {error}");
                let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
                board.config.reload_refused = Some(error.to_string());
                "reload refused, see the log; the earlier rules are in force".to_owned()
            }
        };
        lifecycle::tell_ready(&told);
    }

    async fn try_reload(&mut self) -> Result<String, AppError> {
        // No file, however odd, may end a relay that runs: not even by way of a bug in reading it.
        let loaded = catch_unwind(AssertUnwindSafe(|| (self.load)())).map_err(|_| AppError::LoadPanicked)?;
        let config = loaded.map_err(AppError::Config)?;
        for warning in &config.warnings {
            tracing::warn!("{}", warning);
        }
        let told = summary(&config);
        let admin = config.admin.clone();
        self.apply(config).await?;
        if admin != self.admin_configured {
            tracing::warn!("`admin.listen` has changed; that takes a restart");
        }
        if let Err(error) = self.announce() {
            // In force it is all the same.
            tracing::warn!("commands will not find the new addresses: {error}");
        }
        Ok(told)
    }
}
