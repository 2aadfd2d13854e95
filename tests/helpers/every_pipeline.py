"""Every pipeline of one process, with settings that make it short, and scans for it."""

FEW = {"iterations": 2}
NETWORKS = ("arnet", "mrf_pnp")
CASES = {
    "svdmrf": {},
    "lrtv": {"toeplitz_cg": {"prior_iterations": 2}},
    "llr": {"toeplitz_cg": {"prior_iterations": 2}},
    "arnet": {},
    "mrf_pnp": {"toeplitz_cg": {"prior_iterations": 2}},
    "mrf_admm": {"pnp_admm": FEW},
    "mrf_admm_single_coil": {"pnp_admm": FEW},
    "mri2qmap": {
        "pnp_admm": {**FEW, "consistency": True, "search": "groups"},
        "combined_matching": {"uncertainty": True},
    },
}


def scans_for_all(make_scan):
    """Scans of one coil and of four, and one of the sequence of the networks for TSMIs."""
    noisy = {"noise": 0.05, "acceleration": 0.5, "groups": 1}
    return {
        "one coil": make_scan(**noisy, coils=1)[3],
        "four coils": make_scan(**noisy)[3],
        "500 frames": make_scan(**noisy, frames=500)[3],
    }


def scan_of(name, scans):
    if name in NETWORKS:
        return scans["500 frames"]
    return scans["one coil" if "single_coil" in name else "four coils"]
