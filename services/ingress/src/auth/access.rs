//! Who may make a call.

use roundtrip_model::KeyRole;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody. The call checks its caller by other means, or reveals nothing.
    Open,
    AnyKey,
    /// Keys of these roles, and operators.
    Roles(&'static [KeyRole]),
    /// The same, and every request without a key that has a valid signature. The call checks it.
    SignedOr(&'static [KeyRole]),
}

impl Access {
    pub(super) fn includes(self, role: KeyRole) -> bool {
        match self {
            Self::Open | Self::AnyKey => true,
            Self::Roles(roles) | Self::SignedOr(roles) => {
                role == KeyRole::Operator || roles.contains(&role)
            }
        }
    }
}
