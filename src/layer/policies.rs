//! Detection of layers with different cookie policies around one handler.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::Extensions;

use super::cookies::CookiePolicy;

/// The policy of the first layer of the process.
static FIRST: OnceLock<CookiePolicy> = OnceLock::new();

/// True once a layer with another policy has been created.
///
/// Until then no request needs a mark, which would cost an allocation.
static ARE_SEVERAL: AtomicBool = AtomicBool::new(false);

/// The policy of an outer layer, in the extensions of a request.
#[derive(Clone)]
struct OuterPolicy(Arc<CookiePolicy>);

/// Remembers the policy of a new layer.
pub(super) fn register(policy: &CookiePolicy) {
    if FIRST.get_or_init(|| policy.clone()).names() != policy.names() {
        ARE_SEVERAL.store(true, Ordering::Relaxed);
    }
}

/// Marks a request with the policy of this layer. Reports an outer layer with another policy, once.
pub(super) fn check(policy: &Arc<CookiePolicy>, is_reported: &AtomicBool, extensions: &mut Extensions) {
    if ARE_SEVERAL.load(Ordering::Relaxed) {
        mark_and_compare(policy, is_reported, extensions);
    }
}

#[cold]
fn mark_and_compare(policy: &Arc<CookiePolicy>, is_reported: &AtomicBool, extensions: &mut Extensions) {
    let Some(OuterPolicy(outer)) = extensions.insert(OuterPolicy(Arc::clone(policy))) else { return };
    let is_other = !Arc::ptr_eq(&outer, policy) && outer.names() != policy.names();
    if is_other && !is_reported.swap(true, Ordering::Relaxed) {
        let [outer_access, outer_refresh] = outer.names();
        let [inner_access, inner_refresh] = policy.names();
        tracing::error!(
            outer_access,
            outer_refresh,
            inner_access,
            inner_refresh,
            "two SilentRefreshLayers with different cookies are around one route: each finds only its own session. \
             Give both the same CookiePolicy"
        );
    }
}
