"""What has a node, and what does a pod ask for it?

A device plugin offers a TEE as a resource of the node; a pod that is to use it asks for some of it, and tolerates the
taint of the same name. The names are those of the plugins themselves, and of node-feature-discovery with its rules for
confidential containers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tacit.errors import InputError

INTEL_EPC = "sgx.intel.com/epc"
AZURE_EPC = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA_EPC = "alibabacloud.com/sgx_epc_MiB"
TDX_KEYS = "tdx.intel.com/keys"
SNP_IDS = "sev-snp.amd.com/esids"

# What one marble gets. Intel's plugin counts bytes and has the devices beside; the others count MiB, and bring them.
_LIMITS: Mapping[str, Mapping[str, str]] = {
    INTEL_EPC: {INTEL_EPC: "10Mi", "sgx.intel.com/enclave": "1", "sgx.intel.com/provision": "1"},
    AZURE_EPC: {AZURE_EPC: "10"},
    ALIBABA_EPC: {ALIBABA_EPC: "10"},
    TDX_KEYS: {TDX_KEYS: "1"},
    SNP_IDS: {SNP_IDS: "1"},
}
_CUSTOM = "10"  # of a plugin that is not known here, as MarbleRun has it

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_AMOUNT = re.compile(r"[1-9][0-9]{0,11}([KMGT]i?|k)?")

_FEATURE = "feature.node.kubernetes.io"
# A node says that it has a TEE by one of these resources, or one of these labels.
_RESOURCES = {
    "SGX": (INTEL_EPC, AZURE_EPC, ALIBABA_EPC),
    "TDX": (TDX_KEYS,),
    "SNP": (SNP_IDS,),
}
_LABELS = {
    "SGX": (f"{_FEATURE}/cpu-security.sgx.enabled", f"intel.{_FEATURE}/sgx"),
    "TDX": (
        f"{_FEATURE}/cpu-security.tdx.enabled",
        f"{_FEATURE}/cpu-security.tdx.protected",
        f"intel.{_FEATURE}/tdx",
    ),
    "SNP": (f"{_FEATURE}/cpu-security.sev.snp.enabled", f"amd.{_FEATURE}/snp"),
}
_BESIDE = ("sgx.intel.com/enclave", "sgx.intel.com/provision")
_PLUGINS = {
    "SGX": "an SGX device plugin (Intel's, or the one of your cloud)",
    "TDX": f"a device plugin, or a rule of node-feature-discovery, that offers {TDX_KEYS}",
    "SNP": f"a device plugin, or a rule of node-feature-discovery, that offers {SNP_IDS}",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pod asks for: limits of a container, and the key of the taint that it tolerates."""

    key: str
    limits: Mapping[str, str]


def parse_resource_key(text: str) -> Wanted:
    """What `NAME` or `NAME=AMOUNT` asks for; for plugins that are known, with what belongs to it.

    Raises:
        InputError: no name of a resource, or no amount.
    """
    name, given, amount = text.partition("=")
    if not _NAME.fullmatch(name):
        raise InputError(f'"{text}" names no resource; expected such as {INTEL_EPC} or {TDX_KEYS}')
    if not given:
        return Wanted(name, _LIMITS.get(name, {name: _CUSTOM}))
    if not _AMOUNT.fullmatch(amount):
        raise InputError(f'"{amount}" in "{text}" is no amount; expected such as {INTEL_EPC}=64Mi')
    return Wanted(name, {**_LIMITS.get(name, {}), name: amount})


@dataclass(frozen=True, slots=True)
class NodeHardware:
    """What a node offers: resources by the TEE that they are for, and what is missing before pods can use one."""

    name: str
    offers: Mapping[str, str]
    missing: tuple[str, ...]


def describe_node(node: Mapping[str, Any]) -> NodeHardware:
    """What the node's own object says. Nothing is proven by it: evidence is."""
    metadata, status = node.get("metadata") or {}, node.get("status") or {}
    capacity: Mapping[str, Any] = status.get("capacity") or {}
    labels: Mapping[str, Any] = metadata.get("labels") or {}
    offers: dict[str, str] = {}
    missing: list[str] = []
    for tee, resources in _RESOURCES.items():
        found = next((key for key in resources if _is_some(capacity.get(key))), None)
        lacking = [key for key in _BESIDE if not _is_some(capacity.get(key))] if found == INTEL_EPC else []
        if found is not None and not lacking:
            offers[tee] = found
        elif lacking:
            missing.append(f"{tee}: it offers {INTEL_EPC} and not {' and '.join(lacking)}; see the SGX device plugin")
        elif any(str(labels.get(label, "")).lower() == "true" for label in _LABELS[tee]):
            missing.append(f"{tee}: the processor has it, and nothing offers it to pods; install {_PLUGINS[tee]}")
    return NodeHardware(str(metadata.get("name", "?")), offers, tuple(missing))


def choose_resource_key(nodes: Iterable[Mapping[str, Any]]) -> str:
    """The resource that stands for SGX on this cluster: the first that a node offers, Intel's where none does."""
    found = (describe_node(node).offers.get("SGX") for node in nodes)
    return next((key for key in found if key is not None), INTEL_EPC)


def offers_resource(node: Mapping[str, Any], key: str) -> bool:
    """Whether a node has any of this resource."""
    return _is_some(((node.get("status") or {}).get("capacity") or {}).get(key))


def _is_some(amount: object) -> bool:
    return amount is not None and str(amount).lstrip("0") != ""
