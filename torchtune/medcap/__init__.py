"""medcap: teach a frozen Llama to see medical images."""

from medcap.reporting import hide_torchao_notice

# Before anything imports torchao, in worker processes too.
hide_torchao_notice()
