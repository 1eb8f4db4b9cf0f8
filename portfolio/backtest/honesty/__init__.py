"""Ways in which a backtest fools its owner, asked one by one of any strategy (docs/honesty.md). Pure.

checks ──► every check, in order                       house ──► the same for our own engine, on a sample
  ├── look ahead: ahead (what the future may not change), cuts, compare
  ├── history:    warm_up
  ├── fills:      fills (same bar, stale, costs, capacity)
  └── data:       survivors, basis, luck, overlap
asked ──► runs a strategy; a raise is a value       market ──► bars cut short or with another future
"""
