//! The kernel's numbers (include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h).

pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub(crate) const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(crate) const NFNL_BATCH_GENID: u16 = 1;

/// `NFNL_SUBSYS_NFTABLES << 8` of every message below.
const SUBSYSTEM: u16 = NFNL_SUBSYS_NFTABLES << 8;
pub(crate) const NEWTABLE: u16 = SUBSYSTEM;
pub(crate) const DELTABLE: u16 = SUBSYSTEM | 2;
pub(crate) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const GETCHAIN: u16 = SUBSYSTEM | 4;
pub(crate) const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(crate) const GETRULE: u16 = SUBSYSTEM | 7;
pub(crate) const DELRULE: u16 = SUBSYSTEM | 8;
pub(crate) const NEWSET: u16 = SUBSYSTEM | 9;
pub(crate) const GETSET: u16 = SUBSYSTEM | 10;
pub(crate) const DELSET: u16 = SUBSYSTEM | 11;
pub(crate) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(crate) const GETSETELEM: u16 = SUBSYSTEM | 13;
pub(crate) const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(crate) const NEWGEN: u16 = SUBSYSTEM | 15;
pub(crate) const GETGEN: u16 = SUBSYSTEM | 16;

pub(crate) const NFTA_GEN_ID: u16 = 1;
pub(crate) const NFTA_TABLE_NAME: u16 = 1;

pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;

pub(crate) const NFTA_RULE_TABLE: u16 = 1;
pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(crate) const NFTA_RULE_USERDATA: u16 = 7;

/// `NFTA_LIST_ELEM`
pub(crate) const LIST_ELEMENT: u16 = 1;

pub(crate) const NFTA_SET_TABLE: u16 = 1;
pub(crate) const NFTA_SET_NAME: u16 = 2;
pub(crate) const NFTA_SET_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
pub(crate) const NFTA_SET_DESC: u16 = 9;
pub(crate) const NFTA_SET_ID: u16 = 10;
pub(crate) const NFTA_SET_USERDATA: u16 = 13;
pub(crate) const NFTA_SET_DESC_CONCAT: u16 = 2;
pub(crate) const NFTA_SET_FIELD_LEN: u16 = 1;
pub(crate) const NFT_SET_INTERVAL: u32 = 4;
pub(crate) const NFT_SET_CONCAT: u32 = 0x80;

pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_USERDATA: u16 = 6;
pub(crate) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(crate) const NFT_SET_ELEM_INTERVAL_END: u32 = 1;

pub(crate) const NFTA_DATA_VALUE: u16 = 1;
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;

pub(crate) const NFTA_EXPR_NAME: u16 = 1;
pub(crate) const NFTA_EXPR_DATA: u16 = 2;

pub(crate) const NFT_REG_VERDICT: u32 = 0;
/// The first of sixteen registers of four bytes.
pub(crate) const NFT_REG32_00: u32 = 8;
