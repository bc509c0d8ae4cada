//! Rows come back, through Amazon's own client.
