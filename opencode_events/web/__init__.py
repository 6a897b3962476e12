"""The HTTP surface: aiohttp handlers that turn requests into calls of the broker. Knows neither watchdog nor relay."""
