"""The peak of matrix products, and threads that are put back."""

import torch

from itera_lite.machine.peak import measured_peak, torch_threads


def test_peak_is_plausible_and_leaves_the_threads_alone():
    before = torch.get_num_threads()
    with torch_threads(1):
        assert 1e8 < measured_peak(torch.float32, seconds=0.05) < 1e14
    assert torch.get_num_threads() == before
