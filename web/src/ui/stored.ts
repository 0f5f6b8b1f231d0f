// What this browser remembers: the theme, the language, small switches. Never anything secret.

const PREFIX = 'madang.';

export function stored<T extends string>(name: string, allowed: readonly T[]): T | null {
  try {
    const found = localStorage.getItem(PREFIX + name);
    return allowed.find((value) => value === found) ?? null;
  } catch {
    return null; // storage may be forbidden; the page works without
  }
}

export function store(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // See above.
  }
}
