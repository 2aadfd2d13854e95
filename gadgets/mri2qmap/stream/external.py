"""The former name of `mri2qmap.hosts.external_node`.

Gadgetron servers start a gadget by the module named in the pipeline file, and files at sites still
name this one.
"""

from mri2qmap.hosts.external_node import *  # noqa: F403
