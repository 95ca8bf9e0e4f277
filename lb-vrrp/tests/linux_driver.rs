//! The Linux driver in network namespaces.
