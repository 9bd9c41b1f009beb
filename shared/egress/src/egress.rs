//! The egress policy: the address rules, the resolver that applies them, and the trusted
//! certificate authorities.

use std::sync::Arc;

use roundtrip_model::{Check, WrongSettings};
use roundtrip_tls::Roots;

use crate::{Config, Guard, Loopback, Resolver};

#[derive(Debug, Clone)]
pub struct Egress {
    guard: Arc<Guard>,
    resolver: Resolver,
    roots: Roots,
}

impl Egress {
    pub fn new(config: &Config, loopback: Loopback) -> Result<Self, WrongSettings> {
        let mut check = Check::of("egress");
        let guard = config.rules(loopback, &mut check).map(Arc::new);
        let roots = config.roots(&mut check);
        let made = guard.zip(roots).and_then(|(guard, roots)| {
            let resolver = Resolver::new(Arc::clone(&guard), &config.nameservers);
            Some(Self {
                resolver: check.value("nameservers", resolver)?,
                guard,
                roots,
            })
        });
        check.end_with(made)
    }

    pub const fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    pub const fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    pub const fn roots(&self) -> &Roots {
        &self.roots
    }
}
