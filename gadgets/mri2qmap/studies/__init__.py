"""Studies: the experiments of the paper, and comparisons of denoisers.

They simulate scans, reconstruct them and compare the maps with the truth. A reconstruction needs
none of this. Importing the package needs the optional packages of the extra ``studies``.

========================================  ======================================================
Modules                                   Subject
========================================  ======================================================
`catalogue`                               the reconstructions of each experiment
`experiment_runner`, `experiment_report`  simulation, reconstruction, metrics; tables and figures
`iterations`, `iteration_report`          errors after each ADMM iteration
`reliability`, `reliability_report`       standard deviations of T1 and T2 against their errors
`system_phantom`, `sphere_report`         T1 and T2 of the NIST/ISMRM system phantom
`denoiser_bench`, `prior_bench`           denoisers compared on images, and as priors
`candidates`, `classical_denoisers`       the denoisers that are compared
`bench_volumes`                           the images that are denoised
`bench_report`, `bench_figures`           tables and figures of the comparison
`speed_bench`, `speed_peers`              speed compared with that of other libraries
`speed_problem`                           the least-squares problem that they solve
`result_table`, `extra_tables`            CSV files of results that later runs use again
`code_version`                            which code computed a result
========================================  ======================================================
"""

from __future__ import annotations

from importlib.util import find_spec

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.optional_packages import EXTRAS

_missing = [EXTRAS[module][0] for module in ("matplotlib", "skimage") if find_spec(module) is None]
if _missing:
    raise Mri2QmapError(
        f"mri2qmap.studies: not installed: {', '.join(_missing)}; install the packages that the "
        "studies need: pip install 'mri2qmap[studies]'"
    )
