"""medcap: teach a frozen Llama to see medical images."""
