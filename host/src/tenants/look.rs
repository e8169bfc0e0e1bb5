//! Looking at the tenants' files again: the host opens and closes tenants as their files say, and loads what has changed of those that stay open.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{OpenTenant, OpeningTenant, Refreshed, Tenants, TenantsError};
use crate::{
    names::TenantId,
    reload::{Progress, Report},
    tenant::home::HomeError,
};

impl Tenants {
    /// The part of a refresh that happens at once: which tenants are closed or cannot be opened, and the coming reports of the tenants that are being opened.
    pub fn bring_in_line(&self, progress: Progress) -> Result<(Refreshed, Vec<OpeningTenant>), HomeError> {
        self.bring_some_in_line(|_| true, progress)
    }

    /// As [`Tenants::bring_in_line`], for some tenants. The others stay as they are.
    fn bring_some_in_line(
        &self,
        is_meant: impl Fn(&TenantId) -> bool,
        progress: Progress,
    ) -> Result<(Refreshed, Vec<OpeningTenant>), HomeError> {
        let (mut done, mut wanted) = (Refreshed::default(), Vec::new());
        for home in self.config.homes.list()?.into_iter().filter(|home| is_meant(&home.tenant)) {
            if home.tenant.is_reserved() && home.tenant != TenantId::local() {
                done.failed.push((home.tenant.clone(), HomeError::Reserved(home.tenant).to_string()));
                continue;
            }
            match home.settings() {
                Ok(settings) if settings.suspended => {}
                Ok(settings) => wanted.push((home, Some(settings))),
                // The host does not know the tenant's limits: the tenant stays as it is, or closed.
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::error!(tenant = %home.tenant, error, "the tenant's settings are not in force");
                    done.failed.push((home.tenant.clone(), error));
                    wanted.push((home, None));
                }
            }
        }
        let mut opens = self.opens();
        let stays = |(tenant, open): (&TenantId, &OpenTenant)| {
            if open.removing || !is_meant(tenant) {
                return true;
            }
            let wanted = wanted.iter().find(|(home, _)| home.tenant == *tenant);
            // Another tenant of the same name is another tenant.
            wanted.is_some_and(|(_, settings)| settings.as_ref().is_none_or(|set| set.incarnation == open.incarnation))
        };
        let closed: Vec<TenantId> =
            opens.iter().filter(|open| !stays(*open)).map(|(tenant, _)| tenant.clone()).collect();
        for tenant in closed {
            if let Some(open) = opens.remove(&tenant) {
                self.close(&tenant, &open);
            }
            done.closed.push(tenant);
        }
        let mut opening = Vec::new();
        for (home, settings) in wanted {
            let Some(settings) = settings else { continue };
            if opens.get(&home.tenant).is_some_and(|open| open.removing) {
                continue;
            }
            let limits = self.config.tenant_limits.patched(&settings.limits);
            self.registry.open(&home.tenant, &settings.incarnation, limits);
            if !opens.contains_key(&home.tenant) {
                let closing = CancellationToken::new();
                let open =
                    OpenTenant { closing: closing.clone(), incarnation: settings.incarnation.clone(), removing: false };
                opens.insert(home.tenant.clone(), open);
                opening.push((home.tenant.clone(), self.begin(home, &settings, closing, Arc::clone(&progress))));
            }
        }
        Ok((done, opening))
    }

    /// Looks at the tenants' files again, and at every open tenant's tools and grants. Gives the reports, by tenant.
    pub async fn reload_all(&self) -> Result<BTreeMap<TenantId, Report>, TenantsError> {
        self.reload_some(|_| true).await
    }

    /// As [`Tenants::reload_all`], for one tenant. No report if the tenant is suspended.
    pub async fn reload(&self, tenant: &TenantId) -> Result<BTreeMap<TenantId, Report>, TenantsError> {
        self.reload_some(|other| other == tenant).await
    }

    async fn reload_some(
        &self,
        is_meant: impl Fn(&TenantId) -> bool,
    ) -> Result<BTreeMap<TenantId, Report>, TenantsError> {
        let (refreshed, opening) = self.bring_some_in_line(&is_meant, Arc::new(|| {}))?;
        let others: Vec<TenantId> = self.opens().keys().filter(|tenant| is_meant(tenant)).cloned().collect();
        let is_new = |tenant: &TenantId| opening.iter().any(|(opening, _)| opening == tenant);
        let others: Vec<TenantId> = others.into_iter().filter(|tenant| !is_new(tenant)).collect();
        let reloads = others.iter().map(|tenant| self.reloader.reload(tenant));
        let mut reports = BTreeMap::new();
        for (tenant, report) in others.iter().zip(futures::future::join_all(reloads).await) {
            // One that was closed meanwhile has nothing to report, and one that still opens says so.
            let report = report.unwrap_or_default();
            let report =
                report.or_else(|| Some(Report { loading: ["(everything)".to_owned()].into(), ..Report::default() }));
            reports.extend(report.map(|report| (tenant.clone(), report)));
        }
        let until = Instant::now() + self.config.patience;
        for (tenant, opened) in opening {
            let report = tokio::time::timeout_at(until, opened).await;
            let report = report.map_or_else(
                |_| Some(Report { loading: ["(everything)".to_owned()].into(), ..Report::default() }),
                Result::ok,
            );
            reports.extend(report.map(|report| (tenant, report)));
        }
        for (tenant, error) in refreshed.failed {
            reports.entry(tenant).or_default().failed.insert("tenant".into(), error);
        }
        Ok(reports)
    }
}
