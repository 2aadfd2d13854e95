"""The former name of `mri2qmap.hosts.external_node`.

Gadgetron servers start a gadget by the module named in the pipeline file, and files at sites still
name this one.
"""

from mri2qmap.hosts.external_node import *  # noqa: F403
from mri2qmap.pipeline.pipeline_file import EXTERNAL_MODULE, FORMER_MODULE
from mri2qmap.pipeline.settings import warn_of_former_name

warn_of_former_name("the server's pipeline", "module", FORMER_MODULE, EXTERNAL_MODULE)
